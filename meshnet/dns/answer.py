"""Pure. The answer to any bytes that arrive on a DNS port.

    known packet ──────────────▶ whole answer, next rotation          0.2 µs
    known question ────────────▶ compiled answer, next rotation       1 µs
    anything else ─▶ read ─┬───▶ no query: nothing, or an error code
                           ├───▶ ours: resolve, compile, keep
                           ├───▶ ours, an alias of another's: Forward what the alias names
                           └───▶ not ours: Forward, or REFUSED

Refused are classes other than IN, zone transfers (RFC 5936, RFC 1995) and what else is no type of
data; opcodes other than QUERY are NOTIMP; EDNS versions over 0 are BADVERS (RFC 6891, section
6.1.3). Names in our zones are never forwarded.
"""

from __future__ import annotations

from meshnet.dns.chase import chased
from meshnet.dns.compiled import endless
from meshnet.dns.lookup import PACKETS_MAX
from meshnet.dns.query import (
    AA,
    BADVERS,
    NOERROR,
    REFUSED,
    SERVFAIL,
    UDP_MAX,
    UDP_MIN,
    Query,
    edns,
    is_opt,
    read_query,
)
from meshnet.dns.records import AXFR, IN, IXFR, OPT
from meshnet.dns.resolve import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.dns.compiled import Compiled
    from meshnet.dns.lookup import Lookup

HEADS_MAX = 16

_OPTS = (edns(False), edns(True))
_NO_DATA = frozenset({OPT, IXFR, AXFR, 249, 250, 253, 254})
"""Types that no record has: OPT, IXFR, AXFR, TKEY, TSIG, MAILB, MAILA."""


class Forward:
    """A `query` that an upstream has to answer: the client's own, or one for the name that our
    `aliases` of the client's lead to.
    """

    __slots__ = ("_aliases", "_asked", "query")

    def __init__(self, asked: Query, aliases: Compiled | None = None) -> None:
        self._asked = asked
        self._aliases = aliases
        self.query = asked if aliases is None else asked.about(aliases.onward)

    def whole(self, reply: bytes) -> bytes:
        """Return the client's answer, given the one to `query`."""
        return reply if self._aliases is None else chased(self._asked, self._aliases, reply)


def answer(query: bytes, lookup: Lookup, *, tcp: bool = False) -> bytes | Forward | None:
    """Return the answer to one message, None for no answer. Never raises, whatever the bytes."""
    if not tcp:
        known = lookup.packets.get(query[2:])
        if known is not None:
            return query[:2] + next(known)
        reply = _again(query, lookup)
        if reply is not None:
            return reply
    read = read_query(query, tcp)
    return _consider(query, read, lookup) if isinstance(read, Query) else read


def _again(query: bytes, lookup: Lookup) -> bytes | None:
    """Return the answer to a question that was asked before in this shape, or None.

    A compiled answer has a head for these flags and counts only when such a query was read whole.
    """
    end = query.find(0, 12) + 5
    question = query[12:end]
    compiled = lookup.questions.get(question)
    lower = compiled is not None
    if compiled is None:
        compiled = lookup.questions.get(question[:-4].lower() + question[-4:])
    head = compiled.heads.get(query[2:12]) if compiled is not None else None
    if compiled is None or head is None:
        return None
    rest = query[end:]
    opt, size = b"", UDP_MIN
    if query[11]:
        if not is_opt(rest) or rest[6]:
            return None
        opt, size = _OPTS[rest[7] >> 7], rest[3] << 8 | rest[4]
    elif rest:
        return None
    if end + compiled.size + len(opt) > max(UDP_MIN, min(size, UDP_MAX)):
        return None
    if lower and len(rest) <= len(opt) and compiled.bodies and compiled.rcode == NOERROR:
        _keep_packet(query[2:], [head + question, opt], compiled, lookup)
    return query[:2] + head + question + next(compiled.turn) + opt


def _keep_packet(key: bytes, frame: list[bytes], compiled: Compiled, lookup: Lookup) -> None:
    """Keep whole answers to a whole query. Its name exists and has its usual case, and its OPT has
    no options, so that nobody can fill the memory with packets that never come again.
    """
    if len(lookup.packets) >= PACKETS_MAX:
        lookup.packets.clear()
    before, opt = frame
    lookup.packets[key] = endless([before + body + opt for body in compiled.bodies])


def _consider(data: bytes, query: Query, lookup: Lookup) -> bytes | Forward:
    if query.version:
        return query.refuse(BADVERS, lookup.recursion)
    if query.klass != IN or query.kind in _NO_DATA:
        return query.refuse(REFUSED, lookup.recursion)
    if not lookup.origins:
        return query.refuse(SERVFAIL, lookup.recursion)
    if lookup.origin(query.name) is None:
        if lookup.recursion and query.wants_recursion:
            return Forward(query)
        return query.refuse(REFUSED, lookup.recursion)
    compiled = _compiled(query, lookup)
    if compiled.onward and lookup.recursion and query.wants_recursion:
        return Forward(query, compiled)
    usual = data[11] == bool(query.opt) and not any(data[6:11])
    if usual and len(compiled.heads) < HEADS_MAX:
        head = query.head(compiled.rcode, compiled.counts, AA, lookup.recursion)
        compiled.heads[data[2:12]] = head
    return compiled.reply(query, lookup.recursion)


def _compiled(query: Query, lookup: Lookup) -> Compiled:
    question = query.name + query.question[-4:]
    compiled = lookup.questions.get(question)
    if compiled is None:
        compiled, used = resolve(lookup, query.name, query.kind)
        if not compiled.onward:
            lookup.remember(question, compiled, used)
    return compiled
