"""Pure. From tables to control messages to what the process holds, and nothing lost between."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.dns import control
from meshnet.dns.answer import answer
from meshnet.dns.contents import Change, Contents
from meshnet.dns.records import address_tail, name
from meshnet.dns.table import Table, differences
from meshnet.dns.update import update_messages
from meshnet.errors import BadInput
from tests.pure.dns_world import dns_query, network

Tables = dict[str, Table]
ORIGINS = frozenset({name("mesh"), name("10.in-addr.arpa")})


def apply(live: Contents, messages: list[bytes]) -> Contents:
    """Do what the process does with these messages."""
    change: Change | None = None
    for message in messages:
        assert len(message) <= control.MESSAGE_MAX
        operation, fields = control.unpack(message)
        if operation == control.BEGIN:
            change = Change(fields[0] == b"full")
            continue
        assert change is not None
        if operation == control.CONTEXT:
            change.describe(fields[0].decode(), fields[1].decode().split(), fields[2:])
        elif operation == control.FORGET:
            change.contexts[fields[0].decode()] = None
        elif operation == control.PUT:
            for owner, records in control.pairs(fields[1:]):
                change.put(fields[0].decode(), owner, records)
        elif operation == control.APPEND:
            change.append(fields[0].decode(), fields[1], fields[2])
        elif operation == control.DROP:
            for owner in fields[1:]:
                change.put(fields[0].decode(), owner, None)
        elif operation == control.COMMIT:
            live = change.commit(live, int(fields[0]), False)
    return live


def held(contents: Contents) -> dict[str, tuple[frozenset[bytes], list[dict[bytes, bytes]]]]:
    """What each context answers from."""
    return {
        context: (lookup.origins, [layer.records for layer in lookup.layers])
        for context, lookup in contents.contexts.items()
    }


def wanted(tables: Tables) -> dict[str, tuple[frozenset[bytes], list[dict[bytes, bytes]]]]:
    return {
        context: (table.origins, [dict(layer) for _, layer in table.layers])
        for context, table in tables.items()
    }


TEXTS = ("mesh", "web.mesh", "a.b.mesh", "1.10.in-addr.arpa")
OWNERS = st.sampled_from([name(text) for text in TEXTS])
LAYERS = st.dictionaries(OWNERS, st.binary(max_size=30))


@st.composite
def some_tables(draw: st.DrawFn) -> Tables:
    common = draw(LAYERS)
    contexts = draw(st.sets(st.sampled_from(("@host", "a", "b"))))
    origins = st.sampled_from((ORIGINS, frozenset({name("mesh")})))
    return {
        context: Table(((context, draw(LAYERS)), ("@common", common)), draw(origins))
        for context in sorted(contexts)
    }


def test_a_context_takes_over_what_one_that_goes_was_made_of() -> None:
    common = ("@common", {name("mesh"): b""})
    before = {"@host": Table((("@host", {}), common), frozenset({name("mesh")}))}
    after = {"a": Table((("a", {}), common), frozenset({name("mesh")}))}
    live = apply(Contents(), list(update_messages(None, before, 1)))

    assert held(apply(live, list(update_messages(before, after, 2)))) == wanted(after)


@given(st.lists(some_tables(), min_size=1, max_size=5))
def test_the_process_ends_with_the_tables_it_should_have(history: list[Tables]) -> None:
    live, before = Contents(), None
    for tables in history:
        live = apply(live, list(update_messages(before, tables, 5)))
        assert held(live) == wanted(tables)
        before = tables
    assert held(apply(Contents(), list(update_messages(None, history[-1], 5)))) == held(live)


def test_nothing_is_sent_when_nothing_differs() -> None:
    tables = {"@host": Table((("@common", {name("mesh"): b"x"}),), ORIGINS)}
    same = {"@host": Table((("@common", {name("mesh"): b"x"}),), ORIGINS)}
    assert list(update_messages(tables, same, 5)) == []
    assert len(list(update_messages(None, tables, 5))) == 4


def test_one_changed_name_is_one_small_message() -> None:
    layer = {name(f"n{number}.mesh"): b"records" for number in range(5000)}
    changed = {**layer, name("n7.mesh"): b"others"}
    before = {"@host": Table((("@common", layer),), ORIGINS)}
    after = {"@host": Table((("@common", changed),), ORIGINS)}
    messages = list(update_messages(before, after, 5))
    assert [message[:1] for message in messages] == [control.BEGIN, control.PUT, control.COMMIT]
    assert sum(map(len, messages)) < 100


def test_a_layer_of_any_size_and_a_name_with_any_number_of_records_get_through() -> None:
    many = b"".join(
        address_tail(address, 5) for address in network("x", 1, "10.0.0.0/17").prefixes[0].hosts()
    )
    layer = {name(f"n{number}.mesh"): struct.pack(">I", number) * 30 for number in range(3000)}
    layer[name("many.mesh")] = many
    origins = frozenset(name(f"{number}.in-addr.arpa") for number in range(4000))
    tables = {"@host": Table((("@common", layer),), origins)}
    assert held(apply(Contents(), list(update_messages(None, tables, 5)))) == wanted(tables)


def test_nothing_shows_before_the_commit() -> None:
    first = {"@host": Table((("@common", {name("mesh"): b"1"}),), ORIGINS)}
    second = {"@host": Table((("@common", {name("mesh"): b"2"}),), ORIGINS)}
    live = apply(Contents(), list(update_messages(None, first, 5)))
    for before in (first, None):
        messages = list(update_messages(before, second, 6))
        assert apply(live, messages[:-1]) is live
        assert held(live) == wanted(first)


def test_answers_that_were_kept_follow_a_change() -> None:
    def tables(address: str) -> Tables:
        layer = {name("mesh"): b"", name("web.mesh"): address_tail(ip_address(address), 5)}
        return {"@host": Table((("@common", layer),), ORIGINS)}

    live = apply(Contents(), list(update_messages(None, tables("10.0.0.1"), 5)))
    query = dns_query("web.mesh")
    asked = [answer(query, live.lookup("@host")) for _ in range(3)]
    live = apply(live, list(update_messages(tables("10.0.0.1"), tables("10.0.0.2"), 6)))
    again = [answer(query, live.lookup("@host")) for _ in range(3)]
    assert [bytes(reply)[-4:] for reply in asked if isinstance(reply, bytes)] == 3 * [b"\n\0\0\1"]
    assert [bytes(reply)[-4:] for reply in again if isinstance(reply, bytes)] == 3 * [b"\n\0\0\2"]


def test_equal_records_come_one_after_the_other_so_that_one_copy_serves() -> None:
    names = {name("a.mesh"): b"same", name("b.mesh"): b"other", name("c.mesh"): b"same"}
    (message,) = control.put_messages("@common", names)
    _, fields = control.unpack(message)
    assert [records for _, records in control.pairs(fields[1:])] == [b"other", b"same", b"same"]


@given(st.binary(min_size=1, max_size=1), st.lists(st.binary(max_size=50)))
def test_a_message_is_read_as_it_was_written(operation: bytes, fields: list[bytes]) -> None:
    message = control.pack(operation, *fields)
    assert control.unpack(message) == (operation, fields)
    for end in range(2, len(message)):
        try:
            _, found = control.unpack(message[:end])
        except BadInput:
            continue
        assert found == fields[: len(found)]


@given(LAYERS, LAYERS)
def test_differences_turn_one_layer_into_the_other(
    before: dict[bytes, bytes], after: dict[bytes, bytes]
) -> None:
    changed = differences(before, after)
    merged: dict[bytes, bytes | None] = {**before, **changed}
    assert {owner: wire for owner, wire in merged.items() if wire is not None} == after
    assert all(before.get(owner) != records for owner, records in changed.items())


def test_a_control_message_of_an_odd_number_of_fields_is_no_list_of_pairs() -> None:
    with pytest.raises(ValueError, match="argument"):
        list(control.pairs([b"a"]))
