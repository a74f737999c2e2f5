"""Docker's settings have our resolver first, or are as they were, whatever else they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.containers import docker_setup
from meshnet.containers.docker_setup import with_ours, without_ours
from meshnet.errors import BadInput
from meshnet.model.addresses import RESOLVER

OURS = str(RESOLVER)
SERVERS = st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"]), unique=True)
CONFIGS = st.fixed_dictionaries({}, optional={"dns": SERVERS.filter(bool), "debug": st.booleans()})


@given(CONFIGS, SERVERS)
def test_undone_settings_are_as_they_were(config: dict[str, Any], upstreams: list[str]) -> None:
    changed = with_ours(config, upstreams)
    assert changed["dns"] == [OURS, *(config.get("dns") or upstreams)]
    assert with_ours(changed, []) == changed
    made = [] if "dns" in config else changed["dns"]
    assert without_ours(changed, made) == config
    assert without_ours(config, made) == config


def test_a_file_keeps_its_indent_its_order_and_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_setup, "host_upstreams", lambda own: ("127.0.0.1", "192.0.2.53"))
    path = tmp_path / "daemon.json"
    before = '{\n  "log-driver": "journald",\n  "bip": "10.9.0.1/24"\n}\n'
    path.write_text(before)
    path.chmod(0o640)
    assert docker_setup.setup(tmp_path, path)
    assert not docker_setup.setup(tmp_path, path)
    changed = path.read_text()
    assert changed.startswith('{\n  "log-driver"')
    assert json.loads(changed)["dns"] == [OURS, "192.0.2.53"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert docker_setup.undo(tmp_path, path)
    assert not docker_setup.undo(tmp_path, path)
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["daemon.json"]


def test_a_file_that_was_not_there_is_gone_again(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "daemon.json"
    assert docker_setup.setup(tmp_path, path)
    assert json.loads(path.read_text())["dns"][0] == OURS
    assert docker_setup.undo(tmp_path, path)
    assert not path.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"dns": "192.0.2.1"}', '{"dns": [1]}'])
def test_settings_that_docker_would_not_take_are_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(text)
    for change in (docker_setup.setup, docker_setup.undo):
        with pytest.raises(BadInput):
            change(tmp_path, path)
    assert path.read_text() == text
