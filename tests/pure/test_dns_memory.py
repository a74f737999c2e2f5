"""Pure. What the answer function remembers, and that any bytes leave it unharmed."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import dns.exception
import dns.message
import dns.rcode
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshnet.dns.answer import Forward, answer
from meshnet.dns.lookup import PACKETS_MAX, VOLATILE_MAX, Lookup, Names
from meshnet.dns.naming import zone_claims
from meshnet.dns.query import UDP_MAX
from meshnet.dns.records import address_tail, name
from meshnet.dns.static import APEX
from tests.pure.dns_world import dns_query, mesh_lookup
from tests.pure.test_dns_answer import addresses, ask


def one_name(address: str) -> tuple[Lookup, Names]:
    """A lookup over one layer that a test can change, with `web.mesh` at an address."""
    names = Names()
    for claim in zone_claims(APEX):
        names.put(claim.owner, claim.records)
    names.put(name("web.mesh"), records(address))
    return Lookup([names], [APEX]), names


@pytest.mark.parametrize("edns", [None, 0])
def test_a_change_shows_in_the_next_answer_and_in_no_other(edns: int | None) -> None:
    lookup, names = one_name("10.0.0.1")
    names.put(name("db.mesh"), records("10.0.0.5"))
    for _ in range(3):
        assert addresses(ask(lookup, "web.mesh", edns=edns)) == ["10.0.0.1"]
        assert addresses(ask(lookup, "db.mesh", edns=edns)) == ["10.0.0.5"]
        assert ask(lookup, "new.mesh", edns=edns).rcode() == dns.rcode.NXDOMAIN
    names.put(name("web.mesh"), records("10.0.0.2"))
    names.put(name("new.mesh"), records("10.0.0.3"))
    lookup.changed([name("web.mesh"), name("new.mesh")])
    for _ in range(3):
        assert addresses(ask(lookup, "web.mesh", edns=edns)) == ["10.0.0.2"]
        assert addresses(ask(lookup, "db.mesh", edns=edns)) == ["10.0.0.5"]
        assert addresses(ask(lookup, "new.mesh", edns=edns)) == ["10.0.0.3"]
    names.put(name("new.mesh"), None)
    lookup.changed([name("new.mesh")])
    assert ask(lookup, "new.mesh", edns=edns).rcode() == dns.rcode.NXDOMAIN


def records(address: str) -> bytes:
    return address_tail(ip_address(address), 5)


def test_a_change_of_an_aliases_target_shows_behind_the_alias() -> None:
    lookup = mesh_lookup()
    assert len(addresses(ask(lookup, "alias.mesh"))) == 4
    lookup.layers[1].put(name("web.mesh"), records("10.9.9.9"))
    lookup.changed([name("web.mesh")])
    assert addresses(ask(lookup, "alias.mesh")) == ["web.mesh.", "10.9.9.9"]


def test_a_name_between_others_comes_and_goes_with_them() -> None:
    lookup, names = one_name("10.0.0.1")
    assert ask(lookup, "b.mesh").rcode() == dns.rcode.NXDOMAIN
    for count in (1, 2):
        names.put(name(f"a{count}.b.mesh"), records("10.0.0.7"))
        lookup.changed([name(f"a{count}.b.mesh")])
        assert ask(lookup, "b.mesh").rcode() == dns.rcode.NOERROR
    for count in (1, 2):
        names.put(name(f"a{count}.b.mesh"), None)
        lookup.changed([name(f"a{count}.b.mesh")])
    assert ask(lookup, "b.mesh").rcode() == dns.rcode.NXDOMAIN


def test_the_memory_for_answers_is_bounded_whatever_is_asked() -> None:
    lookup = mesh_lookup()
    for number in range(2 * VOLATILE_MAX + 10):
        answer(dns_query(f"x{number}.mesh"), lookup)
    assert len(lookup.questions) <= VOLATILE_MAX + 1
    for number in range(2 * PACKETS_MAX + 10):
        size = struct.pack(">H", 512 + number % 60000)
        opt = b"\0\0\x29" + size + bytes(6)
        answer(dns_query("web.mesh", opt), lookup)
    assert len(lookup.packets) <= PACKETS_MAX


def test_packets_with_cookies_or_odd_case_are_not_kept_whole() -> None:
    lookup = mesh_lookup()
    for number in range(50):
        cookie = b"\0\x0a\0\x08" + number.to_bytes(8, "big")
        answer(dns_query("web.mesh", b"\0\0\x29\4\xd0\0\0\0\0\0\x0c" + cookie), lookup)
        answer(dns_query("WEB.mesh"), lookup)
    assert lookup.packets == {}
    for _ in range(3):
        answer(dns_query("web.mesh"), lookup)
    assert len(lookup.packets) == 1


WARM = mesh_lookup(recursion=True)


def check_any_bytes(data: bytes, tcp: bool) -> None:
    """Whatever comes, no exception goes out, and an answer is one that a client can read."""
    reply = answer(data, WARM, tcp=tcp)
    if reply is None or isinstance(reply, Forward):
        assert reply is None or len(data) >= 17
        return
    assert reply[:2] == data[:2]
    assert reply[2] & 0x80
    assert len(reply) <= (65535 if tcp else UDP_MAX)
    try:
        read = dns.message.from_wire(reply)
    except dns.exception.DNSException:
        # An answer without records that gives back an opcode dnspython has no class for.
        assert reply[3] & 15 in (dns.rcode.NOTIMP, dns.rcode.FORMERR, dns.rcode.REFUSED)
        assert len(reply) == 12 or reply[6:10] == bytes(4)
        return
    assert read.id == int.from_bytes(data[:2], "big")


@settings(max_examples=400)
@given(st.binary(max_size=1500), st.booleans())
def test_any_bytes_have_an_answer_or_none(data: bytes, tcp: bool) -> None:
    check_any_bytes(data, tcp)


NAMES = st.sampled_from(
    (
        "web.mesh",
        "nothing.mesh",
        "a.b.dev.mesh",
        "alias.mesh",
        "mesh",
        ".",
        "example.com",
        "c1.mesh",
    )
)


@settings(max_examples=600)
@given(
    NAMES,
    st.integers(0, 300),
    st.sampled_from((b"", b"\0\0\x29\4\xd0\0\0\0\0\0\0", b"\0\0\x29\2\0\0\0\x80\0\0\4\0\3\0\0")),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=4),
    st.integers(0, 90),
    st.booleans(),
)
@example("web.mesh", 1, b"", [(2, 0x29)], 0, False)
def test_mutated_queries_have_an_answer_or_none(
    what: str, kind: int, opt: bytes, changes: list[tuple[int, int]], cut: int, tcp: bool
) -> None:
    data = bytearray(dns_query(what, opt, kind))
    for at, value in changes:
        data[at % len(data)] = value
    check_any_bytes(bytes(data[: len(data) - cut % 8]), tcp)


@settings(max_examples=200)
@given(
    st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=6),
    st.integers(0, 65535),
    st.booleans(),
)
def test_cached_answers_equal_those_made_anew(labels: list[bytes], kind: int, opt: bool) -> None:
    """What the fast paths give is, but for the rotation, what the slow one gives."""
    if sum(len(label) + 1 for label in labels) > 240:
        return
    text = b"".join(bytes((len(label),)) + label for label in labels)
    edns = b"\0\0\x29\4\xd0\0\0\0\0\0\0" if opt else b""
    counts = b"\0\1\0\0\0\0\0" + bytes((opt,))
    for origin in (b"\4mesh\0", b"\3web\4mesh\0", b"\4MeSh\0"):
        query = b"\1\2\0\0" + counts + text + origin + struct.pack(">HH", kind, 1) + edns
        fresh = answer(query, mesh_lookup(recursion=True))
        for _ in range(2):
            again = answer(query, WARM)
            assert isinstance(again, bytes)
            assert isinstance(fresh, bytes)
            assert again[:12] == fresh[:12]
            assert sorted(again) == sorted(fresh)
