"""Pure. Aliases of ours that lead to names of others: what the answer is made of."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.dns.answer import Forward, answer
from meshnet.dns.lookup import Lookup
from meshnet.dns.records import name
from meshnet.model.statements import StaticRecord
from tests.pure.dns_world import mesh_lookup

FAR = StaticRecord("cdn", "CNAME", ("edge.example.",))
TWICE = StaticRecord("www", "CNAME", ("cdn",))
SOA = ("example.", 900, "SOA", "ns.example. h.example. 1 2 3 4 60")

Row = tuple[str, int, str, str]


def forwarded(
    owner: str = "www.mesh", kind: str = "A", *, edns: int = 0, tcp: bool = False
) -> Forward:
    query = dns.message.make_query(owner, kind, id=7, use_edns=edns)
    found = answer(query.to_wire(), lookup(), tcp=tcp)
    assert isinstance(found, Forward)
    return found


def lookup() -> Lookup:
    return mesh_lookup(recursion=True, static=(FAR, TWICE))


def upstream(*rows: Row, authority: tuple[Row, ...] = (), rcode: int = 0, kind: str = "A") -> bytes:
    """What an upstream says of edge.example, compressed as libraries do."""
    response = dns.message.make_response(dns.message.make_query("edge.example", kind, id=7))
    response.set_rcode(dns.rcode.Rcode.make(rcode))
    for section, found in ((response.answer, rows), (response.authority, authority)):
        for owner, ttl, what, data in found:
            section.append(dns.rrset.from_text(owner, ttl, "IN", what, data))
    return response.to_wire(max_size=65535)


def texts(section: list[dns.rrset.RRset]) -> list[str]:
    return [line for rrset in section for line in rrset.to_text().splitlines()]


def test_the_upstream_is_asked_for_the_last_name() -> None:
    found = forwarded()
    assert found.query.name == name("edge.example")
    assert found.query.question == name("edge.example") + b"\0\1\0\1"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("A", "192.0.2.1"),
        ("MX", "10 mail.edge.example."),
        ("NS", "ns.edge.example."),
        ("PTR", "host.edge.example."),
        ("SRV", "1 2 80 host.edge.example."),
        ("TXT", '"some text" "and more"'),
    ],
)
def test_our_aliases_come_first_and_then_what_the_upstream_says(kind: str, data: str) -> None:
    rows: list[Row] = [
        ("edge.example.", 60, "CNAME", "a.edge.example."),
        ("a.edge.example.", 30, kind, data),
    ]
    reply = forwarded(kind=kind).whole(upstream(*rows, kind=kind))
    read = dns.message.from_wire(reply)
    assert (read.id, read.rcode(), read.edns) == (7, dns.rcode.NOERROR, 0)
    assert texts(read.answer) == [
        "www.mesh. 60 IN CNAME cdn.mesh.",
        "cdn.mesh. 60 IN CNAME edge.example.",
        "edge.example. 60 IN CNAME a.edge.example.",
        f"a.edge.example. 30 IN {kind} {data}",
    ]


def test_nothing_there_is_said_with_the_others_soa() -> None:
    reply = forwarded().whole(upstream(authority=(SOA,), rcode=dns.rcode.NXDOMAIN))
    read = dns.message.from_wire(reply)
    assert read.rcode() == dns.rcode.NXDOMAIN
    assert len(texts(read.answer)) == 2
    assert texts(read.authority) == [" ".join(map(str, (*SOA[:2], "IN", *SOA[2:])))]


def test_an_upstream_that_fails_is_said_so() -> None:
    read = dns.message.from_wire(forwarded().whole(upstream(rcode=dns.rcode.REFUSED)))
    assert read.rcode() == dns.rcode.SERVFAIL
    assert not read.answer


def test_what_does_not_fit_is_asked_for_by_tcp() -> None:
    rows: list[Row] = [("edge.example.", 60, "A", f"192.0.2.{last}") for last in range(1, 200)]
    read = dns.message.from_wire(forwarded().whole(upstream(*rows)))
    assert read.flags & dns.flags.TC
    read = dns.message.from_wire(forwarded(tcp=True).whole(upstream(*rows)))
    assert len(texts(read.answer)) == 201


@pytest.mark.parametrize("kind", ["CNAME", "ANY"])
def test_who_asks_for_the_alias_itself_gets_it(kind: str) -> None:
    query = dns.message.make_query("cdn.mesh", kind)
    reply = answer(query.to_wire(), lookup())
    assert isinstance(reply, bytes)
    assert texts(dns.message.from_wire(reply).answer) == ["cdn.mesh. 60 IN CNAME edge.example."]


def test_without_an_upstream_or_the_wish_the_alias_is_all() -> None:
    query = dns.message.make_query("cdn.mesh", "A")
    query.flags &= ~dns.flags.RD
    for asked, known in ((query, lookup()), (query, mesh_lookup(static=(FAR,)))):
        reply = answer(asked.to_wire(), known)
        assert isinstance(reply, bytes)
        assert texts(dns.message.from_wire(reply).answer) == ["cdn.mesh. 60 IN CNAME edge.example."]


@given(st.binary(max_size=200), st.integers(0, 3), st.integers(0, 3))
def test_an_upstream_may_say_anything(rest: bytes, answers: int, authority: int) -> None:
    whole = upstream(("edge.example.", 60, "CNAME", "a.edge.example."), authority=(SOA,))
    for reply in (whole[:12] + rest, whole[: 12 + len(rest)] + rest):
        counts = bytes((0, 1, 0, answers, 0, authority, 0, 0))
        made = forwarded().whole(reply[:4] + counts + reply[12:])
        assert made[:2] == b"\0\7"
        assert len(made) <= 1232
