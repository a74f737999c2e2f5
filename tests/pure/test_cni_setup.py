"""`meshnet cni|podman setup`: a plugin where an engine looks, and nothing after."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from meshnet.cli.main import main
from meshnet.containers import setups
from meshnet.containers.cni_setup import CONFIGURATION, PLUGIN
from meshnet.containers.setups import NOTE


def run_setup(tmp_path: Path, *options: str) -> int:
    places = ("--bin-dir", str(tmp_path / "bin"), "--conf-dir", str(tmp_path / "net.d"))
    return main(["--state-dir", str(tmp_path / "state"), "cni", "setup", *places, *options])


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != NOTE)


def test_the_plugin_that_is_put_there_answers(tmp_path: Path) -> None:
    assert run_setup(tmp_path) == 0
    said = json.dumps({"cniVersion": "1.0.0", "name": "x", "runDir": str(tmp_path)}).encode()
    env = {"CNI_COMMAND": "STATUS", "PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    for command, code in (("VERSION", 0), ("NONSENSE", 1)):
        env["CNI_COMMAND"] = command
        called = subprocess.run(
            [str(tmp_path / "bin" / PLUGIN)], input=said, env=env, capture_output=True, check=False
        )
        assert (called.returncode, called.stderr) == (code, b"")
        assert json.loads(called.stdout)["cniVersion"] in ("1.0.0", "1.1.0")


def test_a_configuration_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    assert run_setup(tmp_path, "--network", "appnet") == 0
    path = tmp_path / "net.d" / CONFIGURATION
    assert json.loads(path.read_text())["plugins"][0]["network"] == "appnet"
    path.write_text("mine")
    assert run_setup(tmp_path) == 0
    assert path.read_text() == "mine"


def test_what_was_put_there_goes_and_nothing_else(tmp_path: Path) -> None:
    other = tmp_path / "bin" / "bridge"
    other.parent.mkdir()
    other.write_text("another plugin")
    assert run_setup(tmp_path) == 0
    assert files(tmp_path) == [CONFIGURATION, "bridge", PLUGIN]
    assert run_setup(tmp_path, "--undo") == 0
    assert files(tmp_path) == ["bridge"]
    linked = tmp_path / "bin" / PLUGIN
    linked.symlink_to(other)
    assert run_setup(tmp_path, "--undo") == 0
    assert linked.is_symlink(), "a link is somebody else's"


def test_a_directory_that_cannot_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").write_text("a file")
    assert run_setup(tmp_path, "--bin-dir", str(tmp_path / "bin" / "deeper")) == 6
    assert "cannot be written" in capsys.readouterr().err


def test_podmans_driver_answers_and_goes_again(tmp_path: Path) -> None:
    words = ["--state-dir", str(tmp_path / "state"), "podman", "setup"]
    words += ["--plugin-dir", str(tmp_path)]
    assert main(words) == 0
    driver = tmp_path / "meshnet"
    called = subprocess.run([str(driver), "nonsense"], input=b"", capture_output=True, check=False)
    assert (called.returncode, called.stderr) == (1, b"")
    assert json.loads(called.stdout).keys() == {"error"}
    assert main([*words, "--undo"]) == 0
    assert files(tmp_path) == []
    driver.write_text("somebody else's")
    assert main([*words, "--undo"]) == 0
    assert files(tmp_path) == ["meshnet"]


def test_a_purge_finds_what_was_put_there_and_leaves_what_was_changed_since(tmp_path: Path) -> None:
    podman = ["podman", "setup", "--plugin-dir", str(tmp_path / "podman")]
    assert main(["--state-dir", str(tmp_path / "state"), *podman]) == 0
    assert run_setup(tmp_path) == 0
    assert files(tmp_path) == [CONFIGURATION, "meshnet", PLUGIN]
    (tmp_path / "net.d" / CONFIGURATION).write_text("mine now")
    said = setups.undo(tmp_path / "state")
    assert sorted(line.partition(": ")[2].split(",")[0] for line in said) == [
        "left alone",
        "removed",
        "removed",
    ]
    assert files(tmp_path) == [CONFIGURATION]
    assert setups.undo(tmp_path / "state") == []


def test_what_is_undone_by_hand_is_not_looked_for_by_a_purge(tmp_path: Path) -> None:
    assert run_setup(tmp_path) == 0
    assert run_setup(tmp_path, "--undo") == 0
    (tmp_path / "bin" / PLUGIN).write_text("another's")
    assert setups.undo(tmp_path / "state") == []
