"""Pure. One query as it came in, and the frame of its answer.

    query    ID │ flags │ 1 0 0 n │ question │ OPT?
    answer   ID │ flags │ 1 a b c │ question │ records … │ OPT

The answer repeats the question byte for byte, so its case is kept, and has an OPT record exactly
when the query had one (RFC 6891, section 6.1.1). Nearly all queries have one of the two shapes
above and are read here by hand; the rest (several additional records, TSIG, IXFR) by dnslib,
behind checks of size and counts. It is imported when the first of those comes, since it would cost
a fifth of the DNS process's memory.
"""

from __future__ import annotations

import struct

from meshnet.dns.records import NAME_MAX, OPT

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS = 16

UDP_MIN, UDP_MAX = 512, 1232
"""What every client takes (RFC 1035), and what passes unfragmented nearly everywhere."""

QUERY_MAX = UDP_MAX
RECORDS_MAX = 8
"""Longest query and most records in one that are looked at."""

QR, AA, TC, RD = 0x80, 0x04, 0x02, 0x01
RA, CD = 0x80, 0x10
DO = 0x8000

OPT_HEAD = b"\0\0\x29"
"""Owner and type of an OPT record."""

_COUNTS = struct.Struct(">HHHH")
_OPT = struct.Struct(">BHHBBHH")
_KIND_CLASS = struct.Struct(">HH")


class Query:
    """A well-formed query. `name` is in lower case, `question` as asked, `size` the room there is.

    `opt` is the OPT record of the answer, or empty; `version` the EDNS version asked for.
    """

    __slots__ = (
        "dnssec",
        "flags",
        "id",
        "kind",
        "klass",
        "name",
        "opt",
        "question",
        "size",
        "version",
    )

    def __init__(self, data: bytes, end: int, tcp: bool) -> None:
        self.id = data[:2]
        self.flags = data[2:4]
        self.question = data[12:end]
        self.name = self.question[:-4].lower()
        self.kind, self.klass = _KIND_CLASS.unpack(self.question[-4:])
        self.size = 65535 if tcp else UDP_MIN
        self.opt = b""
        self.dnssec = False
        self.version = 0

    def extend(self, size: int, version: int, flags: int, tcp: bool) -> None:
        """Take in the query's OPT record."""
        if not tcp:
            self.size = min(max(size, UDP_MIN), UDP_MAX)
        self.version = version
        self.dnssec = bool(flags & DO)
        self.opt = edns(self.dnssec)

    def about(self, name: bytes) -> Query:
        """Return this query about another name, with all the room there can be for the answer."""
        data = self.id + self.flags + bytes(8) + name + self.question[-4:]
        query = Query(data, len(data), tcp=True)
        query.dnssec = self.dnssec
        return query

    @property
    def wants_recursion(self) -> bool:
        return bool(self.flags[0] & RD)

    @property
    def room(self) -> int:
        """The bytes that are left for records."""
        return self.size - 12 - len(self.question) - len(self.opt)

    def head(self, rcode: int, counts: tuple[int, int, int], bits: int, recursion: bool) -> bytes:
        """Return flags and counts of the answer; `bits` are AA and TC, `counts` without OPT."""
        first = QR | bits | (self.flags[0] & RD)
        second = (RA if recursion else 0) | (self.flags[1] & CD) | rcode
        answer, authority, additional = counts
        return bytes((first, second)) + _COUNTS.pack(
            1, answer, authority, additional + bool(self.opt)
        )

    def refuse(self, rcode: int, recursion: bool) -> bytes:
        """Return an answer without records; of codes over 15 the upper bits go into the OPT."""
        opt = self.opt[:5] + bytes((rcode >> 4,)) + self.opt[6:] if self.opt else b""
        head = self.head(rcode & 15, (0, 0, 0), 0, recursion)
        return self.id + head + self.question + opt


def edns(dnssec: bool) -> bytes:
    """Return an OPT record of ours; the DO bit is copied (RFC 3225, section 3)."""
    return _OPT.pack(0, OPT, UDP_MAX, 0, 0, DO if dnssec else 0, 0)


def read_query(data: bytes, tcp: bool) -> Query | bytes | None:
    """Return the query, or the answer to what is none, or None for what deserves no answer."""
    if len(data) < 12 or data[2] & QR:
        return None
    if data[2] & 0x78:
        return _error(data, NOTIMP)
    questions, *others = _COUNTS.unpack_from(data, 4)
    end = _question_end(data)
    if questions != 1 or end is None or len(data) > QUERY_MAX:
        return _error(data, FORMERR)
    query = Query(data, end, tcp)
    rest = data[end:]
    if others == [0, 0, 0]:
        return query if not rest else _error(data, FORMERR)
    if others == [0, 0, 1] and rest[:3] == OPT_HEAD:
        if not is_opt(rest):
            return _error(data, FORMERR)
        _, _, size, _, version, flags, _ = _OPT.unpack_from(rest)
        query.extend(size, version, flags, tcp)
        return query
    return _read_odd(query, data, sum(others), tcp)


def _error(data: bytes, rcode: int) -> bytes:
    """Return an answer of nothing but a header: the rest of the query cannot be trusted."""
    return data[:2] + bytes((QR | (data[2] & 0x79), rcode)) + bytes(8)


def _question_end(data: bytes) -> int | None:
    """Return where the first question ends. A pointer there could only point into itself."""
    at = 12
    while at < len(data) and data[at]:
        if data[at] > 63:
            return None
        at += 1 + data[at]
    end = at + 5
    return end if at - 11 <= NAME_MAX and end <= len(data) else None


def is_opt(rest: bytes) -> bool:
    """Say whether `rest` is one OPT record and nothing else."""
    if len(rest) < 11 or rest[:3] != OPT_HEAD:
        return False
    return _whole_options(rest[11:], int.from_bytes(rest[9:11], "big"))


def _whole_options(options: bytes, length: int) -> bool:
    """Say whether `length` bytes of options are there and end where the last one ends."""
    at = 0
    while at + 4 <= length:
        at += 4 + int.from_bytes(options[at + 2 : at + 4], "big")
    return at == length == len(options)


def _read_odd(query: Query, data: bytes, records: int, tcp: bool) -> Query | bytes:
    """Read a query with records we do not expect, to find its OPT record among them."""
    if records > RECORDS_MAX:
        return _error(data, FORMERR)
    from dnslib import RR, DNSBuffer, DNSHeader, DNSQuestion

    try:
        buffer = DNSBuffer(data)
        DNSHeader.parse(buffer)
        DNSQuestion.parse(buffer)
        found = [RR.parse(buffer) for _ in range(records)]
    except Exception:
        # A foreign parser on hostile bytes: whatever it raises means that it cannot read them.
        return _error(data, FORMERR)
    options = [record for record in found if record.rtype == OPT]
    if buffer.remaining() or len(options) > 1:
        return _error(data, FORMERR)
    for record in options:
        query.extend(record.rclass, record.ttl >> 16 & 255, record.ttl & 0xFFFF, tcp)
    return query
