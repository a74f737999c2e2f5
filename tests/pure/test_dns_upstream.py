"""Pure. What upstreams say: read, kept as long as they say, given again to others."""

from __future__ import annotations

from collections.abc import Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.dns.cache import Cache
from meshnet.dns.query import Query, read_query
from meshnet.dns.response import Response, read_response, upstream_query

Row = tuple[str, int, str, str]
"""Owner, TTL, type and data of one record."""

SOA: Row = ("example.com.", 900, "SOA", "ns.example.com. h.example.com. 1 2 3 4 60")
ADDRESS: Row = ("www.example.com.", 300, "A", "192.0.2.1")
ALIAS: Row = ("www.example.com.", 500, "CNAME", "x.example.com.")


def client_query(name: str = "www.example.com", *, edns: bool = True, do: bool = False) -> Query:
    query = dns.message.make_query(name, "A", id=7, use_edns=0 if edns else -1, want_dnssec=do)
    read = read_query(query.to_wire(), tcp=False)
    assert isinstance(read, Query)
    return read


def response_wire(
    answers: Sequence[Row] = (),
    authority: Sequence[Row] = (),
    *,
    rcode: int = 0,
    edns: int | None = 0,
    name: str = "www.example.com",
) -> bytes:
    response = dns.message.make_response(dns.message.make_query(name, "A", id=0x4142))
    if edns is not None:
        response.use_edns(edns)
    response.set_rcode(dns.rcode.Rcode.make(rcode))
    for rows, section in ((answers, response.answer), (authority, response.authority)):
        for owner, ttl, kind, data in rows:
            section.append(dns.rrset.from_text(owner, ttl, "IN", kind, data))
    return response.to_wire(max_size=65535)


def read(wire: bytes) -> Response:
    found = read_response(wire, b"AB", client_query().question)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("answers", "authority", "rcode", "ttl"),
    [
        ([ADDRESS], [], 0, 300),
        ([ALIAS, ("x.example.com.", 30, "A", "192.0.2.1")], [], 0, 30),
        ([], [SOA], 3, 60),
        ([], [SOA], 0, 60),
        ([ALIAS], [SOA], 3, 60),
        ([], [], 3, 0),
        ([], [], 0, 0),
        ([("www.example.com.", 0, "A", "192.0.2.1")], [], 0, 0),
        ([("www.example.com.", 999999, "A", "192.0.2.1")], [], 0, 3600),
        ([ADDRESS], [], 2, 0),
        ([ADDRESS], [], 5, 0),
    ],
)
def test_a_response_is_kept_for_the_shortest_of_its_times(
    answers: list[Row], authority: list[Row], rcode: int, ttl: int
) -> None:
    assert read(response_wire(answers, authority, rcode=rcode)).ttl == ttl


def test_a_truncated_response_is_passed_on_and_not_kept() -> None:
    wire = bytearray(response_wire([ADDRESS]))
    wire[2] |= 2
    found = read(bytes(wire))
    assert (found.truncated, found.ttl) == (True, 0)
    assert dns.message.from_wire(found.reply(client_query(), 0)).flags & dns.flags.TC


@pytest.mark.parametrize("edns", [True, False])
@pytest.mark.parametrize("upstream_edns", [None, 0])
def test_the_client_gets_opt_when_it_asked_with_opt(edns: bool, upstream_edns: int | None) -> None:
    found = read(response_wire([ADDRESS], edns=upstream_edns))
    reply = dns.message.from_wire(found.reply(client_query(edns=edns), 0))
    assert (reply.edns >= 0) == edns
    assert reply.id == 7
    assert reply.flags & dns.flags.RA
    assert not reply.flags & dns.flags.AA
    assert [str(rrset) for rrset in reply.answer] == ["www.example.com. 300 IN A 192.0.2.1"]


def test_times_count_down_and_names_that_point_back_stay_whole() -> None:
    rows: list[Row] = [ALIAS, ("x.example.com.", 300, "A", "192.0.2.1")]
    found = read(response_wire(rows, [SOA]))
    reply = dns.message.from_wire(found.reply(client_query("WWW.eXample.com"), 100))
    assert [str(rrset) for rrset in (*reply.answer, *reply.authority)] == [
        "WWW.eXample.com. 400 IN CNAME x.eXample.com.",
        "x.eXample.com. 200 IN A 192.0.2.1",
        "eXample.com. 800 IN SOA ns.eXample.com. h.eXample.com. 1 2 3 4 60",
    ]


def test_a_response_too_long_for_the_client_is_cut() -> None:
    rows: list[Row] = [("www.example.com.", 9, "TXT", f'"{str(n) * 200}"') for n in range(9)]
    found = read(response_wire(rows))
    for edns in (True, False):
        wire = found.reply(client_query(edns=edns), 0)
        assert len(wire) <= (1232 if edns else 512)
        reply = dns.message.from_wire(wire)
        assert (bool(reply.flags & dns.flags.TC), reply.answer) == (True, [])


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        response_wire([ADDRESS])[:-1],
        response_wire([ADDRESS], name="www.example.net"),
        b"AX" + response_wire([ADDRESS])[2:],
        dns.message.make_query("www.example.com", "A", id=0x4142).to_wire(),
        response_wire([ADDRESS])[:6] + b"\xff\xff" + response_wire([ADDRESS])[8:],
    ],
    ids=["nothing", "cut", "another question", "another id", "a query", "records it has not"],
)
def test_what_is_no_response_to_the_query_is_as_if_it_had_not_come(wire: bytes) -> None:
    assert read_response(wire, b"AB", client_query().question) is None


def test_an_upstream_that_does_not_know_edns_is_asked_without() -> None:
    assert read(response_wire(rcode=1)).plain_may_help
    assert read(response_wire(rcode=4)).plain_may_help
    assert not read(response_wire(rcode=2)).plain_may_help
    assert read(response_wire(rcode=16)).plain_may_help
    reply = read(response_wire(rcode=16)).reply(client_query(), 0)
    assert dns.message.from_wire(reply).rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize("do", [True, False])
def test_upstreams_are_asked_what_the_client_asked(do: bool) -> None:
    query = client_query("wWw.example.com", do=do)
    asked = dns.message.from_wire(upstream_query(b"AB", query, True))
    assert asked.id == 0x4142
    assert asked.question[0].to_text() == "wWw.example.com. IN A"
    assert (asked.edns, asked.payload) == (0, 1232)
    assert bool(asked.ednsflags & dns.flags.DO) == do
    plain = dns.message.from_wire(upstream_query(b"AB", client_query(), False))
    assert plain.edns == -1


@given(st.binary(max_size=300))
def test_any_bytes_of_an_upstream_are_survived(data: bytes) -> None:
    question = client_query().question
    read_response(data, b"AB", question)
    head = b"AB\x81\x80\0\1" + data[:6].ljust(6, b"\0")
    found = read_response(head + question + data[6:], b"AB", question)
    if found is not None:
        assert len(found.reply(client_query(), 10)) <= 1232


def kept(ttl: int, size: int = 10) -> Response:
    return Response(0, False, (1, 0, 0), bytes(size), [], ttl)


def test_the_cache_forgets_what_is_too_old() -> None:
    cache = Cache()
    response = kept(30)
    cache.put(b"a", response, 100.0)
    assert cache.get(b"a", 129.5) == (response, 29)
    assert cache.get(b"a", 130.0) is None
    assert len(cache) == 0


def test_the_cache_holds_the_least_recently_used_last() -> None:
    cache = Cache(entries=3)
    for key in (b"a", b"b", b"c"):
        cache.put(key, kept(30), 0.0)
    cache.get(b"a", 1.0)
    cache.put(b"d", kept(30), 1.0)
    assert [key for key in (b"a", b"b", b"c", b"d") if cache.get(key, 1.0)] == [b"a", b"c", b"d"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 400), st.integers(0, 60))))
def test_the_cache_keeps_its_bounds(puts: list[tuple[int, int, int]]) -> None:
    cache = Cache(entries=5, size=1000)
    for now, (key, size, ttl) in enumerate(puts):
        cache.put(bytes([key]), kept(ttl, size), float(now))
        found = [cache.get(bytes([number]), float(now)) for number in range(10)]
        held = [response.size for response, _ in filter(None, found)]
        assert len(held) <= 5
        assert sum(held) <= 1000


def test_what_may_not_be_kept_is_not() -> None:
    cache = Cache(size=1000)
    cache.put(b"a", kept(0), 0.0)
    cache.put(b"b", kept(30, 500), 0.0)
    assert len(cache) == 0
