"""The agent's files: whole or not at all, secret where they must be."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshnet.agent.storage import FILES, StateDir, new_key
from meshnet.errors import BadInput, NotFound, Unavailable
from meshnet.model.attached import LocalAttachment
from meshnet.model.facts import FactSet
from meshnet.model.keys import SigningKey
from meshnet.model.records import Attachment
from meshnet.wire.fact import sign


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    directory = StateDir(tmp_path / "state")
    directory.create()
    return directory


def attachment(number: int) -> Attachment:
    from ipaddress import ip_address

    return Attachment("default", f"c{number}", (ip_address("10.0.0.9"),), "02:00:00:00:00:01")


def test_keys_are_made_once_and_readable_by_root_only(state: StateDir) -> None:
    identity, wireguard = state.make_keys()
    assert state.make_keys() == (identity, wireguard)
    assert stat.S_IMODE((state.path / "keys.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700


def test_keys_never_show_themselves(state: StateDir) -> None:
    identity, wireguard = state.make_keys()
    shown = f"{identity!r} {identity} {wireguard!r} {wireguard}"
    assert identity.seed.hex() not in shown
    assert repr(identity.seed) not in shown
    assert repr(wireguard.raw) not in shown


def test_a_key_that_is_to_follow_is_kept_beside_the_one_in_use_until_it_is_in_use(
    state: StateDir,
) -> None:
    identity, wireguard = state.make_keys()
    assert state.next_key() is None
    following = new_key()
    state.save_keys(identity, wireguard, following)
    assert state.keys() == (identity, wireguard)
    assert state.next_key() == following
    state.save_keys(identity, following)
    assert state.keys() == (identity, following)
    assert state.next_key() is None


def test_before_joining_there_is_nothing_to_read_and_the_error_says_so(state: StateDir) -> None:
    with pytest.raises(NotFound) as caught:
        state.settings()
    assert "meshnet join" in caught.value.hint


def test_a_damaged_file_is_named(state: StateDir) -> None:
    (state.path / "attachments.json").write_text("[{]")
    with pytest.raises(BadInput, match=r"attachments\.json"):
        state.attachments()


def test_attachments_come_back_as_they_were(state: StateDir) -> None:
    item = LocalAttachment(
        network="default", name="c1", addresses=("10.0.0.9",), mac="m", interface="mesh0"
    )
    state.save_attachments([item])
    assert state.attachments() == (item,)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(cut=st.integers(1, 400))
def test_a_journal_cut_short_by_a_crash_loses_its_last_line_only(state: StateDir, cut: int) -> None:
    key = SigningKey(bytes(32))
    facts = [sign(key, attachment(number), number + 1) for number in range(3)]
    journal = state.journal()
    journal.compact([])
    journal.append(facts)
    path = state.path / "facts.ndjson"
    data = path.read_bytes()
    last = len(data.splitlines(keepends=True)[-1])
    path.write_bytes(data[: -min(cut, last)])
    loaded = journal.load()
    assert loaded in (facts[:2], facts)
    journal.compact(FactSet(loaded))
    journal.append(facts)
    assert FactSet(journal.load()) == FactSet(facts)


def test_a_directory_that_cannot_be_written_is_an_error_that_names_the_file(
    state: StateDir,
) -> None:
    (state.path / ".attachments.json.new").mkdir()
    with pytest.raises(Unavailable, match=r"attachments\.json"):
        state.save_attachments([])


def test_purge_removes_our_files_and_nothing_else(state: StateDir) -> None:
    state.make_keys()
    (state.path / "theirs").write_text("kept")
    state.purge()
    assert sorted(path.name for path in state.path.iterdir()) == ["theirs"]
    assert not any((state.path / name).exists() for name in FILES)
