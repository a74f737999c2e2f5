"""Pure. All that the DNS process reads from strangers, and what has to hold for any bytes.

The first byte chooses the parser, the rest is what it is given:

    0  a datagram        answer()          1  a TCP message     answer(tcp=True)
    2  an upstream's answer, to a fixed query, behind its ID and question
    3  a control message

Nothing may be raised but what the parser promises, and what comes out has to be sound.
"""

from __future__ import annotations

from meshnet.dns import control
from meshnet.dns.answer import Forward, answer
from meshnet.dns.query import UDP_MAX, UDP_MIN, Query, read_query
from meshnet.dns.records import labels
from meshnet.dns.response import read_response
from meshnet.errors import BadInput
from meshnet.model.statements import StaticRecord
from tests.pure.dns_world import dns_query, mesh_lookup

LOOKUP = mesh_lookup(recursion=True)
ASKED = dns_query("www.example.com")
ALIAS = StaticRecord("cdn", "CNAME", ("www.example.com.",))
ALIASED = answer(dns_query("cdn.mesh"), mesh_lookup(recursion=True, static=(ALIAS,)))


def one_input(data: bytes) -> None:
    """Give one input to its parser; raise when something is wrong."""
    kind, rest = data[:1], data[1:]
    if kind in (b"\0", b"\1"):
        check_answer(rest, tcp=kind == b"\1")
    elif kind == b"\2":
        check_response(rest)
    elif kind == b"\3":
        check_control(rest)


def check_answer(data: bytes, *, tcp: bool) -> None:
    reply = answer(data, LOOKUP, tcp=tcp)
    if reply is None:
        assert len(data) < 12 or data[2] & 0x80, "a query without an answer"
        return
    if isinstance(reply, Forward):
        assert labels(reply.query.name)[-1:] != [b"mesh"], "our own name would be forwarded"
        return
    assert reply[:2] == data[:2], "another ID"
    assert reply[2] & 0x80, "an answer that says it is a query"
    assert len(reply) <= (65535 if tcp else UDP_MAX), "too long"
    assert int.from_bytes(reply[4:6], "big") <= 1


def check_response(data: bytes) -> None:
    """What is read of a response can be given to clients of every kind, at every age."""
    query = read_query(ASKED, tcp=False)
    assert isinstance(query, Query)
    whole = ASKED[:2] + data[:10].ljust(10, b"\0") + ASKED[12:] + data[10:]
    response = read_response(whole, ASKED[:2], ASKED[12:])
    if response is None:
        return
    assert 0 <= response.ttl <= 3600
    for age in (0, 1, 100_000):
        reply = response.reply(query, age)
        assert reply[:2] == ASKED[:2]
        assert len(reply) <= query.size
        assert isinstance(ALIASED, Forward)
        assert len(ALIASED.whole(reply)) <= UDP_MIN


def check_control(data: bytes) -> None:
    try:
        operation, fields = control.unpack(data)
    except BadInput:
        return
    assert control.pack(operation, *fields) == data[:1] + data[1:]
