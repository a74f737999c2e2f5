"""Pure. An upstream's response: read as far as caching needs it, and given again to others.

Records are passed on as they came. Names in them may point back into the message, so its layout is
kept: header and question have the same length in every copy, and the OPT record, which is ours to
set, is cut off the end. Times to live are counted down in place.
"""

from __future__ import annotations

import struct

from meshnet.dns.query import (
    BADVERS,
    CD,
    FORMERR,
    NOERROR,
    NOTIMP,
    NXDOMAIN,
    QR,
    SERVFAIL,
    TC,
    Query,
    edns,
)
from meshnet.dns.records import OPT, SOA

TTL_MAX = 3600
RECORDS_MAX = 2000

_HEAD = struct.Struct(">HHHH")
_RECORD = struct.Struct(">HHIH")


class Response:
    """A response as it can be given to anyone who asks the same.

    `ttl` is how many seconds it may be kept, 0 for not at all. `expected` says whether a flight may
    end with it, or another upstream should be asked; `plain_may_help` that this one may not know
    EDNS (RFC 6891, section 6.2.2).
    """

    __slots__ = (
        "_body",
        "_counts",
        "_times",
        "expected",
        "plain_may_help",
        "rcode",
        "truncated",
        "ttl",
    )

    def __init__(
        self,
        rcode: int,
        truncated: bool,
        counts: tuple[int, int, int],
        body: bytes,
        times: list[int],
        ttl: int,
    ) -> None:
        self.rcode = rcode if rcode < 16 else SERVFAIL
        self.truncated = truncated
        self.expected = rcode in (NOERROR, NXDOMAIN)
        self.plain_may_help = rcode in (FORMERR, NOTIMP, BADVERS)
        self.ttl = ttl
        self._counts = counts
        self._body = body
        self._times = times

    @property
    def size(self) -> int:
        return len(self._body)

    def reply(self, query: Query, age: int) -> bytes:
        """Return the answer to `query`, `age` seconds after the response came."""
        whole = len(self._body) <= query.room
        bits = TC if self.truncated or not whole else 0
        counts = self._counts if whole else (0, 0, 0)
        head = query.head(self.rcode, counts, bits, True)
        body = self._aged(age) if whole else b""
        return query.id + head + query.question + body + query.opt

    def _aged(self, age: int) -> bytes:
        if not age:
            return self._body
        body = bytearray(self._body)
        for at in self._times:
            (ttl,) = struct.unpack_from(">I", body, at)
            struct.pack_into(">I", body, at, max(ttl - age, 0))
        return bytes(body)


def upstream_query(number: bytes, query: Query, extended: bool) -> bytes:
    """Return the query to an upstream: the question as asked, RD, and our own OPT."""
    head = number + bytes((1, query.flags[1] & CD)) + _HEAD.pack(1, 0, 0, extended)
    return head + query.question + (edns(query.dnssec) if extended else b"")


def read_response(data: bytes, number: bytes, question: bytes) -> Response | None:
    """Return the response when it is one to this query, else None."""
    end = 12 + len(question)
    if len(data) < end or data[:2] != number or not data[2] & QR or data[2] & 0x78:
        return None
    questions, *sections = _HEAD.unpack_from(data, 4)
    if questions != 1 or data[12:end].lower() != question.lower() or sum(sections) > RECORDS_MAX:
        return None
    walked = _walk(data, end, sections)
    if walked is None:
        return None
    stop, counts, times, high, ttl = walked
    rcode = data[3] & 15 | high << 4
    truncated = bool(data[2] & TC)
    if truncated or rcode not in (NOERROR, NXDOMAIN):
        ttl = 0
    relative = [at - end for at in times]
    return Response(rcode, truncated, counts, data[end:stop], relative, ttl)


_Walked = tuple[int, tuple[int, int, int], list[int], int, int]


def _walk(data: bytes, at: int, sections: list[int]) -> _Walked | None:
    """Return where the records before the OPT end, how many, where their TTLs are, the upper bits
    of the code, and the seconds to keep; None when the records are not whole.
    """
    counts, times, lives = [0, 0, 0], list[int](), list[int]()
    negative: int | None = None
    high, stop = 0, 0
    for section, count in enumerate(sections):
        for _ in range(count):
            fixed = _skip_name(data, at)
            if fixed is None or fixed + 10 > len(data):
                return None
            kind, _, ttl, length = _RECORD.unpack_from(data, fixed)
            if fixed + 10 + length > len(data):
                return None
            if kind == OPT:
                high, stop = ttl >> 24, stop or at
            elif not stop:
                counts[section] += 1
                times.append(fixed + 4)
                lives.append(0 if ttl >> 31 else ttl)
                if kind == SOA and section == 1 and length >= 20:
                    minimum = int.from_bytes(data[fixed + 6 + length : fixed + 10 + length], "big")
                    negative = min(ttl, minimum)
            at = fixed + 10 + length
    if negative is not None:
        lives.append(negative)
    ttl = min(lives, default=0) if counts[0] or negative is not None else 0
    return stop or at, (counts[0], counts[1], counts[2]), times, high, min(ttl, TTL_MAX)


def _skip_name(data: bytes, at: int) -> int | None:
    """Return where the name at `at` ends, or None when it runs out of the message."""
    while at < len(data):
        length = data[at]
        if length >= 0xC0:
            return at + 2
        if length > 63:
            return None
        at += 1 + length
        if not length:
            return at
    return None
