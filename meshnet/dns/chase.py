"""Pure. An alias of ours that leads out of our zones: our CNAMEs, and behind them what others say.

    cdn.mesh A?  ─▶ CNAME edge.example ─▶ upstream: edge.example A? ─▶ CNAME, A, A
                 ◀─ CNAME edge.example, CNAME, A, A

Resolvers of C libraries do not follow aliases (RFC 1034, section 5.3.1: a stub leaves that to its
server), so half an answer would be none to them. What an upstream says points back into its own
message; here its records are written out, each by itself.
"""

from __future__ import annotations

import struct

from meshnet.dns.query import NOERROR, NXDOMAIN, SERVFAIL, TC
from meshnet.dns.records import CNAME, NAME_MAX, NS, PTR, SOA, SRV

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.dns.compiled import Compiled
    from meshnet.dns.query import Query

MX, DNAME = 15, 39
_BEFORE_NAME = {NS: 0, CNAME: 0, PTR: 0, DNAME: 0, MX: 2, SRV: 6}
"""Bytes before the name in RDATA that ends with one. SOA has two names first; others have none
that could be compressed (RFC 3597, section 4)."""

_HEADER = 12
_COUNTS = struct.Struct(">HHHH")
_FIXED = struct.Struct(">HHIH")


def chased(asked: Query, aliases: Compiled, reply: bytes) -> bytes:
    """Return the answer to `asked`: our aliases, and the records of an upstream's reply.

    The code is that of the last name (RFC 6604, section 3). SERVFAIL when the reply cannot be read.
    """
    rcode, truncated = reply[3] & 15, bool(reply[2] & TC)
    if rcode not in (NOERROR, NXDOMAIN):
        return asked.refuse(SERVFAIL, True)
    try:
        answers, authority = _sections(reply)
    except (IndexError, ValueError, struct.error):
        return asked.refuse(SERVFAIL, True)
    body = b"".join([*aliases.bodies, *answers, *authority])
    if truncated or len(body) > asked.room:
        return asked.id + asked.head(NOERROR, (0, 0, 0), TC, True) + asked.question + asked.opt
    counts = (aliases.counts[0] + len(answers), len(authority), 0)
    return asked.id + asked.head(rcode, counts, 0, True) + asked.question + body + asked.opt


def _sections(message: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return the records of the answer, and of the authority its SOA, which a negative one has."""
    _, answers, authority, _ = _COUNTS.unpack_from(message, 4)
    _, at = _name(message, _HEADER)
    at += 4
    found: list[bytes] = []
    for _ in range(answers + authority):
        record, at = _record(message, at)
        found.append(record)
    return found[:answers], [one for one in found[answers:] if _kind(one) == SOA]


def _kind(record: bytes) -> int:
    _, at = _name(record, 0)
    return int.from_bytes(record[at : at + 2], "big")


def _record(message: bytes, at: int) -> tuple[bytes, int]:
    """Return the record at `at` with its names written out, and where it ends."""
    owner, at = _name(message, at)
    kind, klass, ttl, length = _FIXED.unpack_from(message, at)
    at += _FIXED.size
    end = at + length
    if end > len(message):
        raise ValueError("the record is cut off")
    rdata = message[at:end]
    if kind == SOA:
        server, middle = _name(message, at)
        mailbox, middle = _name(message, middle)
        rdata = server + mailbox + message[middle:end]
    elif kind in _BEFORE_NAME:
        before = at + _BEFORE_NAME[kind]
        rdata = message[at:before] + _name(message, before)[0]
    return owner + _FIXED.pack(kind, klass, ttl, len(rdata)) + rdata, end


def _name(message: bytes, at: int) -> tuple[bytes, int]:
    """Return the name at `at` without pointers, and where it ends there.

    A pointer leads to an earlier place (RFC 1035, section 4.1.4), so there is no way round in
    circles; IndexError or ValueError for what is no name.
    """
    parts, size, end, before = [], 0, 0, at
    while length := message[at]:
        if length >= 0xC0:
            end = end or at + 2
            at = (length & 0x3F) << 8 | message[at + 1]
            if at >= before:
                raise ValueError("a pointer that does not lead back")
            before = at
            continue
        if length > 63:
            raise ValueError("a label of an unknown kind")
        parts.append(message[at : at + 1 + length])
        size += 1 + length
        at += 1 + length
        if size >= NAME_MAX:
            raise ValueError("a name that is too long")
    return b"".join(parts) + b"\0", end or at + 1
