"""The agent's files: whole or not at all, secret where they must be."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshnet.agent.attachments import Attachments
from meshnet.agent.book import Book
from meshnet.agent.storage import FILES, StateDir, hold, new_key
from meshnet.errors import BadInput, Conflict, NotFound, Unavailable
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


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Have this process write no further than that, as where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_does_not_fit_on_the_disk_spoils_none_that_follows(state: StateDir) -> None:
    facts = [sign(SigningKey(bytes(32)), attachment(number), number + 1) for number in range(3)]
    journal = state.journal()
    journal.append(facts[:1])
    room = (state.path / "facts.ndjson").stat().st_size + 100
    with files_of_at_most(room), pytest.raises(Unavailable, match=r"facts\.ndjson"):
        journal.append(facts[1:2])
    journal.append(facts[2:])
    assert journal.load() == [facts[0], facts[2]]


def test_what_a_book_could_not_write_is_written_when_there_is_room(state: StateDir) -> None:
    now = [1000.0]
    key = SigningKey(bytes(32))
    book = Book(key.public, key, state.journal(), lambda: now[0])
    with files_of_at_most(10):
        book.load()
        book.say([attachment(1)])
        assert "facts.ndjson" in book.fault
    book.catch_up()
    assert state.journal().load() == []
    now[0] += 60
    book.catch_up()
    assert book.fault == ""
    assert state.journal().load() == book.own


def test_what_ends_where_nothing_can_be_written_is_gone_all_the_same(state: StateDir) -> None:
    item = LocalAttachment(
        network="default", name="c1", addresses=("10.0.0.9",), mac="", interface="mesh0"
    )
    state.save_attachments([item])
    known = Attachments(state, "boot")
    with files_of_at_most(0):
        known.remove("default", "c1")
        assert list(known) == []
        assert "attachments.json" in known.fault
        with pytest.raises(Unavailable):
            known.put(item)
    assert state.attachments() == (item,)
    known.catch_up()
    assert state.attachments() == ()
    assert known.fault == ""


def test_a_directory_is_held_by_one_agent_at_a_time(state: StateDir) -> None:
    held = hold(state.path)
    with pytest.raises(Conflict, match="an agent is running"):
        hold(state.path)
    os.close(held)
    os.close(hold(state.path))


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


@pytest.mark.parametrize(
    "held", [b"", b'{"identity":', b"\x00" * 200], ids=["empty", "cut", "zeros"]
)
@pytest.mark.parametrize("name", ["keys.json", "node.json", "attachments.json"])
def test_a_file_that_lost_what_it_held_is_named_with_what_to_do(
    state: StateDir, name: str, held: bytes
) -> None:
    read = {
        "keys.json": state.make_keys,
        "node.json": state.settings,
        "attachments.json": state.attachments,
    }
    (state.path / name).write_bytes(held)
    with pytest.raises(BadInput) as caught:
        read[name]()
    assert f"{state.path}/{name} is not valid" in caught.value.message
    assert caught.value.hint.startswith("Put a copy of it back, or ")
    assert (state.path / name).read_bytes() == held


def test_a_journal_that_cannot_be_read_is_an_error_that_says_what_to_do(state: StateDir) -> None:
    (state.path / "facts.ndjson").mkdir()
    with pytest.raises(Unavailable) as caught:
        state.journal().load()
    assert "facts.ndjson cannot be read: Is a directory" in caught.value.message
    assert caught.value.hint.startswith("Move it away")
