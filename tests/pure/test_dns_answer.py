"""Pure. The answer function: every rule of the protocol, with dnspython as the other side."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsigkeyring
import pytest

from meshnet.dns.answer import Forward, answer
from meshnet.dns.compiled import ROTATIONS_MAX
from meshnet.dns.contents import Contents
from meshnet.dns.lookup import Lookup
from meshnet.dns.query import QUERY_MAX, UDP_MAX, UDP_MIN
from meshnet.dns.records import A, name
from tests.pure.dns_world import mesh_lookup


def ask(
    lookup: Lookup,
    what: str,
    kind: str = "A",
    *,
    tcp: bool = False,
    edns: int | None = None,
    payload: int = 1232,
    flags: int = dns.flags.RD,
    options: Sequence[dns.edns.Option] = (),
    klass: str = "IN",
) -> dns.message.Message:
    """Ask as dnspython does, and check what every answer has to be."""
    query = dns.message.make_query(what, kind, klass, flags=flags)
    if edns is not None:
        query.use_edns(edns, payload=payload, options=list(options))
    wire = query.to_wire()
    reply = answer(wire, lookup, tcp=tcp)
    assert isinstance(reply, bytes)
    read = dns.message.from_wire(reply, ignore_trailing=False)
    assert query.is_response(read)
    assert len(reply) <= (65535 if tcp else UDP_MIN if edns is None else min(payload, UDP_MAX))
    assert (read.edns >= 0) == (edns is not None)
    return read


def lines(section: Sequence[dns.rrset.RRset]) -> list[str]:
    return sorted(line for rrset in section for line in rrset.to_text().splitlines())


def addresses(reply: dns.message.Message) -> list[str]:
    """Addresses in the order of the packet."""
    return [str(data) for rrset in reply.answer for data in rrset]


SOA = ["mesh. 5 IN SOA ns.mesh. hostmaster.mesh. 7 3600 600 604800 5"]


@pytest.mark.parametrize(
    ("what", "kind", "answers"),
    [
        ("web.mesh", "A", [f"web.mesh. 5 IN A 10.214.0.{last}" for last in (1, 2, 3)]),
        ("web.mesh", "AAAA", [f"web.mesh. 5 IN AAAA fd00:0:0:1::{last}" for last in (1, 2, 3)]),
        ("c2.web.mesh", "A", ["c2.web.mesh. 5 IN A 10.214.0.2"]),
        ("c2.web.mesh", "TXT", ['c2.web.mesh. 5 IN TXT "v=2"']),
        ("mesh", "SOA", ["mesh. 60 IN SOA ns.mesh. hostmaster.mesh. 7 3600 600 604800 5"]),
        ("mesh", "NS", ["mesh. 60 IN NS ns.mesh."]),
        ("2.0.214.10.in-addr.arpa", "PTR", ["2.0.214.10.in-addr.arpa. 5 IN PTR c2.default.mesh."]),
        ("host.wild.mesh", "TXT", ['host.wild.mesh. 60 IN TXT "here"']),
        ("any.wild.mesh", "A", ["any.wild.mesh. 60 IN A 192.0.2.1"]),
        ("two.labels.wild.mesh", "A", ["two.labels.wild.mesh. 60 IN A 192.0.2.1"]),
        ("*.wild.mesh", "A", ["*.wild.mesh. 60 IN A 192.0.2.1"]),
        (
            "alias.mesh",
            "A",
            ["alias.mesh. 60 IN CNAME web.mesh."]
            + [f"web.mesh. 5 IN A 10.214.0.{last}" for last in (1, 2, 3)],
        ),
        ("alias.mesh", "CNAME", ["alias.mesh. 60 IN CNAME web.mesh."]),
        ("out.mesh", "A", ["out.mesh. 60 IN CNAME www.example.com."]),
    ],
)
def test_a_name_that_exists_is_answered(what: str, kind: str, answers: list[str]) -> None:
    lookup = mesh_lookup()
    for _ in range(3):
        reply = ask(lookup, what, kind)
        assert reply.rcode() == dns.rcode.NOERROR
        assert reply.flags & dns.flags.AA
        assert not reply.flags & (dns.flags.TC | dns.flags.RA)
        assert lines(reply.answer) == answers
        assert reply.authority == []


def test_srv_comes_with_the_addresses_of_its_targets() -> None:
    reply = ask(mesh_lookup(), "_http._tcp.web.mesh", "SRV", edns=0)
    assert lines(reply.answer) == [
        f"_http._tcp.web.mesh. 5 IN SRV 0 1 80 c{number}.web.default.mesh." for number in (1, 2, 3)
    ]
    assert lines(reply.additional) == sorted(
        f"c{number}.web.default.mesh. 5 IN {record}"
        for number in (1, 2, 3)
        for record in (f"A 10.214.0.{number}", f"AAAA fd00:0:0:1::{number}")
    )


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("web.mesh", "MX"),
        ("web.mesh", "HTTPS"),
        ("idle.mesh", "A"),
        ("c1.idle.mesh", "A"),
        ("_tcp.web.mesh", "A"),
        ("default.mesh", "A"),
        ("below.wild.mesh", "A"),
        ("wild.mesh", "A"),
        ("host.wild.mesh", "A"),
        ("mesh", "A"),
        ("any.wild.mesh", "AAAA"),
        ("213.10.in-addr.arpa", "PTR"),
        ("9.213.10.in-addr.arpa", "PTR"),
    ],
)
def test_nodata_is_said_where_the_name_exists(what: str, kind: str) -> None:
    lookup = mesh_lookup()
    for _ in range(3):
        reply = ask(lookup, what, kind)
        assert reply.rcode() == dns.rcode.NOERROR
        assert reply.answer == []
        assert [line.partition(" ")[2] for line in lines(reply.authority)] == [
            SOA[0].partition(" ")[2]
        ]


@pytest.mark.parametrize(
    "what",
    [
        "nothing.mesh",
        "a.b.c.mesh",
        "x.host.wild.mesh",
        "c9.web.mesh",
        "9.9.213.10.in-addr.arpa",
        "1.2.0.214.10.in-addr.arpa",
    ],
)
def test_nxdomain_is_said_with_the_soa(what: str) -> None:
    lookup = mesh_lookup()
    for _ in range(3):
        reply = ask(lookup, what)
        assert reply.rcode() == dns.rcode.NXDOMAIN
        assert reply.answer == []
        (soa,) = reply.authority
        assert (soa.ttl, soa[0].minimum) == (5, 5)
        assert dns.name.from_text(what).is_subdomain(soa.name)


def test_a_cname_into_nothing_has_the_code_of_the_last_name() -> None:
    reply = ask(mesh_lookup(), "dangling.mesh")
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert lines(reply.answer) == ["dangling.mesh. 60 IN CNAME nowhere.mesh."]
    assert lines(reply.authority) == SOA


def test_a_loop_of_cnames_ends() -> None:
    reply = ask(mesh_lookup(), "loop1.mesh")
    assert reply.rcode() == dns.rcode.NOERROR
    assert lines(reply.answer) == [
        "loop1.mesh. 60 IN CNAME loop2.mesh.",
        "loop2.mesh. 60 IN CNAME loop1.mesh.",
    ]


def test_a_wildcard_alias_leads_on() -> None:
    reply = ask(mesh_lookup(), "a.b.dev.mesh", "AAAA")
    assert lines(reply.answer)[0] == "a.b.dev.mesh. 60 IN CNAME web.mesh."
    assert len(lines(reply.answer)) == 4


def test_answers_rotate_so_that_each_comes_first_equally_often() -> None:
    lookup = mesh_lookup()
    firsts = [addresses(ask(lookup, "web.mesh"))[0] for _ in range(30)]
    assert {first: firsts.count(first) for first in firsts} == pytest.approx(
        {f"10.214.0.{last}": 10 for last in (1, 2, 3)}, abs=1
    )


def test_answers_of_many_instances_rotate_through_all() -> None:
    lookup = mesh_lookup(instances=ROTATIONS_MAX + 4)
    firsts = [addresses(ask(lookup, "web.mesh", edns=0))[0] for _ in range(3 * (ROTATIONS_MAX + 4))]
    assert {firsts.count(first) for first in firsts} == {3}


def test_the_questions_case_is_kept() -> None:
    lookup = mesh_lookup()
    for asked in ("web.mesh", "WeB.mEsH", "WEB.MESH", "wEB.MESH", "WeB.mEsH"):
        query = dns.message.make_query(asked, "A")
        reply = answer(query.to_wire(), lookup)
        assert isinstance(reply, bytes)
        assert query.to_wire()[12:] == reply[12 : len(query.to_wire())]
        assert len(addresses(dns.message.from_wire(reply))) == 3


def test_types_that_differ_like_cases_are_kept_apart() -> None:
    """HTTPS is 65 and type 97 is its lower case: only the name may be lowered."""
    lookup = mesh_lookup()
    ask(lookup, "web.mesh", "TYPE97")
    assert ask(lookup, "web.mesh", "HTTPS").question[0].rdtype == dns.rdatatype.HTTPS


@pytest.mark.parametrize("flags", [0, dns.flags.RD, dns.flags.RD | dns.flags.CD, dns.flags.AD])
def test_rd_and_cd_are_given_back(flags: int) -> None:
    lookup = mesh_lookup()
    for _ in range(3):
        reply = ask(lookup, "web.mesh", flags=flags)
        kept = dns.flags.RD | dns.flags.CD
        assert reply.flags & kept == flags & kept
        assert not reply.flags & dns.flags.AD


def test_recursion_is_said_to_be_available_when_there_are_upstreams() -> None:
    lookup = mesh_lookup(recursion=True)
    assert ask(lookup, "web.mesh").flags & dns.flags.RA
    lookup.allow_recursion(False)
    assert not ask(lookup, "web.mesh").flags & dns.flags.RA


def test_names_of_others_are_forwarded_or_refused() -> None:
    query = dns.message.make_query("example.com", "A").to_wire()
    found = answer(query, mesh_lookup(recursion=True))
    assert isinstance(found, Forward)
    assert (found.query.name, found.query.kind) == (name("example.com"), A)
    assert ask(mesh_lookup(), "example.com").rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize(
    "what", ["example.com", ".", "mesh.example", "xmesh", "8.8.8.8.in-addr.arpa"]
)
def test_what_is_not_ours(what: str) -> None:
    assert ask(mesh_lookup(), what).rcode() == dns.rcode.REFUSED
    without = ask(mesh_lookup(recursion=True), what, flags=0)
    assert without.rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize(
    "what", ["web.mesh", "nothing.mesh", "1.0.213.10.in-addr.arpa", "9.9.213.10.in-addr.arpa"]
)
@pytest.mark.parametrize("kind", ["A", "PTR", "DS", "ANY"])
def test_own_names_are_never_forwarded(what: str, kind: str) -> None:
    ask(mesh_lookup(recursion=True), what, kind)


def test_any_is_answered_with_one_rrset() -> None:
    reply = ask(mesh_lookup(), "web.mesh", "ANY")
    (rrset,) = reply.answer
    assert rrset.rdtype == dns.rdatatype.A
    alias = ask(mesh_lookup(), "alias.mesh", "ANY")
    assert lines(alias.answer) == ["alias.mesh. 60 IN CNAME web.mesh."]
    assert ask(mesh_lookup(), "idle.mesh", "ANY").answer == []
    assert ask(mesh_lookup(), "nothing.mesh", "ANY").rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("kind", ["AXFR", "OPT", "TKEY", "TSIG", "MAILA", "MAILB"])
@pytest.mark.parametrize("tcp", [False, True])
def test_zone_transfers_and_what_is_no_type_are_refused(kind: str, tcp: bool) -> None:
    question = name("mesh") + struct.pack(">HH", dns.rdatatype.from_text(kind), 1)
    reply = answer(b"\0\1\1\0\0\1\0\0\0\0\0\0" + question, mesh_lookup(), tcp=tcp)
    assert isinstance(reply, bytes)
    assert reply[3] & 15 == dns.rcode.REFUSED
    assert reply[4:12] == b"\0\1\0\0\0\0\0\0"


def test_an_incremental_transfer_is_refused() -> None:
    query = dns.message.make_query("mesh", "IXFR")
    soa = dns.rrset.from_text("mesh.", 0, "IN", "SOA", "ns.mesh. hostmaster.mesh. 1 1 1 1 1")
    query.authority.append(soa)
    reply = answer(query.to_wire(), mesh_lookup(), tcp=True)
    assert isinstance(reply, bytes)
    assert dns.message.from_wire(reply).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("opcode", ["IQUERY", "STATUS", "NOTIFY", "UPDATE"])
def test_other_opcodes_are_not_implemented(opcode: str) -> None:
    query = dns.message.make_query("mesh", "SOA")
    query.set_opcode(dns.opcode.from_text(opcode))
    reply = answer(query.to_wire(), mesh_lookup())
    assert isinstance(reply, bytes)
    assert reply[:2] == query.to_wire()[:2]
    assert reply[3] & 15 == dns.rcode.NOTIMP
    assert reply[2] & 0x78 == query.to_wire()[2] & 0x78


@pytest.mark.parametrize("klass", ["CH", "HS", "ANY", "NONE"])
def test_other_classes_are_refused(klass: str) -> None:
    lookup = mesh_lookup(recursion=True)
    assert ask(lookup, "version.bind", "TXT", klass=klass).rcode() == dns.rcode.REFUSED
    assert ask(lookup, "web.mesh", "A", klass=klass).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("size", [0, 1, 11])
def test_less_than_a_header_has_no_answer(size: int) -> None:
    assert answer(bytes(size), mesh_lookup()) is None


def test_a_response_has_no_answer() -> None:
    response = dns.message.make_response(dns.message.make_query("web.mesh", "A"))
    assert answer(response.to_wire(), mesh_lookup()) is None


ONE, TWO = b"\0\1\1\0\0\1\0\0\0\0\0", b"\0\1\1\0\0\2\0\0\0\0\0"
"""Starts of queries with one and two questions; the number of additional records is to follow."""
WEB = name("web.mesh") + b"\0\1\0\1"
PLAIN_OPT = b"\0\0\x29\4\xd0\0\0\0\0\0\0"

MALFORMED = {
    "no question": b"\0\1\1\0\0\0\0\0\0\0\0\0",
    "two questions": TWO + b"\0" + WEB + WEB,
    "cut question": ONE + b"\0" + WEB[:-1],
    "pointer": ONE + b"\0\xc0\x0c\0\1\0\1",
    "long label": ONE + b"\0\x40" + bytes(70),
    "long name": ONE + b"\0" + 128 * b"\1a" + b"\0\0\1\0\1",
    "junk behind": ONE + b"\0" + WEB + b"junk",
    "missing OPT": ONE + b"\1" + WEB,
    "two OPT": ONE + b"\2" + WEB + PLAIN_OPT + PLAIN_OPT,
    "junk behind OPT": ONE + b"\1" + WEB + PLAIN_OPT + b"junk",
    "option over the end": ONE + b"\1" + WEB + PLAIN_OPT[:-1] + b"\4\0\x0a\0\5",
    "too long": ONE + b"\1" + WEB + bytes(QUERY_MAX),
    "too many records": b"\0\1\1\0\0\1\xff\xff\0\0\0\0" + WEB + bytes(600),
}


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_query_is_a_format_error(bad: bytes) -> None:
    lookup = mesh_lookup()
    ask(lookup, "web.mesh")
    ask(lookup, "web.mesh", edns=0)
    for tcp in (False, True):
        reply = answer(bad, lookup, tcp=tcp)
        assert isinstance(reply, bytes)
        assert (reply[:2], reply[2] >> 7, reply[3]) == (b"\0\1", 1, dns.rcode.FORMERR)
        assert len(reply) == 12


def test_a_label_that_is_no_text_is_a_name_like_any_other() -> None:
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0\2\xff\x00\4mesh\0\0\1\0\1"
    reply = answer(query, mesh_lookup())
    assert isinstance(reply, bytes)
    assert reply[3] & 15 == dns.rcode.NXDOMAIN


def test_a_label_with_a_dot_inside_is_one_label() -> None:
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0\x08web.mesh\0\0\1\0\1"
    reply = answer(query, mesh_lookup())
    assert isinstance(reply, bytes)
    assert reply[3] & 15 == dns.rcode.REFUSED


@pytest.mark.parametrize("what", ["web.mesh", "nothing.mesh", "idle.mesh", "example.com"])
def test_opt_is_answered_with_opt(what: str) -> None:
    lookup = mesh_lookup()
    for _ in range(3):
        reply = ask(lookup, what, edns=0)
        assert (reply.edns, reply.payload, list(reply.options)) == (0, UDP_MAX, [])


def test_the_do_bit_is_copied() -> None:
    lookup = mesh_lookup()
    for wanted in (True, False, True, False):
        query = dns.message.make_query("web.mesh", "A", want_dnssec=wanted, use_edns=0)
        reply = answer(query.to_wire(), lookup)
        assert isinstance(reply, bytes)
        assert bool(dns.message.from_wire(reply).ednsflags & dns.flags.DO) == wanted


@pytest.mark.parametrize("version", [1, 7, 255])
def test_other_versions_of_edns_are_badvers(version: int) -> None:
    lookup = mesh_lookup()
    for what in ("web.mesh", "web.mesh", "example.com"):
        query = dns.message.make_query(what, "A")
        query.use_edns(version)
        reply = answer(query.to_wire(), lookup)
        assert isinstance(reply, bytes)
        read = dns.message.from_wire(reply)
        assert (read.rcode(), read.edns, read.answer) == (dns.rcode.BADVERS, 0, [])
        assert ask(lookup, "web.mesh", edns=0).answer


def test_options_of_edns_change_nothing() -> None:
    lookup = mesh_lookup()
    for number in range(5):
        cookie = dns.edns.GenericOption("COOKIE", bytes([number]) * 8)
        reply = ask(lookup, "web.mesh", edns=0, options=[cookie])
        assert len(addresses(reply)) == 3
        assert reply.options == ()


def test_an_odd_but_whole_query_is_answered() -> None:
    """A TSIG we have no key for stands behind the OPT: dnslib reads it."""
    lookup = mesh_lookup()
    query = dns.message.make_query("web.mesh", "A", use_edns=0)
    query.use_tsig(dns.tsigkeyring.from_text({"key.": "c2VjcmV0"}))
    for _ in range(2):
        reply = answer(query.to_wire(), lookup)
        assert isinstance(reply, bytes)
        read = dns.message.from_wire(reply)
        assert (len(addresses(read)), read.edns) == (3, 0)


@pytest.mark.parametrize(
    ("payload", "room"),
    [(None, 512), (100, 512), (512, 512), (900, 900), (1232, 1232), (4096, 1232)],
)
def test_an_answer_too_long_is_cut_to_what_was_advertised(payload: int | None, room: int) -> None:
    lookup = mesh_lookup(instances=100)
    for _ in range(3):
        edns = None if payload is None else 0
        query = dns.message.make_query("web.mesh", "A")
        query.use_edns(-1 if edns is None else 0, payload=payload or 0)
        reply = answer(query.to_wire(), lookup)
        assert isinstance(reply, bytes)
        read = dns.message.from_wire(reply)
        assert read.flags & dns.flags.TC
        assert room - 16 < len(reply) <= room


def test_what_was_cut_comes_whole_by_tcp() -> None:
    reply = ask(mesh_lookup(instances=100), "web.mesh", tcp=True)
    assert not reply.flags & dns.flags.TC
    assert len(addresses(reply)) == 100


def test_addresses_nobody_asked_for_are_left_out_silently() -> None:
    lookup = mesh_lookup(instances=12)
    short = ask(lookup, "_http._tcp.web.mesh", "SRV", edns=0, payload=700)
    whole = ask(lookup, "_http._tcp.web.mesh", "SRV", tcp=True)
    assert (len(lines(short.answer)), len(short.additional)) == (12, 0)
    assert not short.flags & dns.flags.TC
    assert (len(lines(whole.answer)), len(lines(whole.additional))) == (12, 24)


def test_a_context_without_zones_fails_and_does_not_forward() -> None:
    lookup = Contents().lookup("unknown")
    assert ask(lookup, "web.mesh").rcode() == dns.rcode.SERVFAIL
    assert ask(lookup, "example.com").rcode() == dns.rcode.SERVFAIL
