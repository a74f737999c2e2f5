"""Pure. One answer in wire form, with its rotations made beforehand.

The records of an answer stand behind the question, whose name they point to, so the same bytes
serve whatever case the question was asked in:

    fixed (CNAMEs) │ turning, by one each time │ authority (SOA) │ additional (addresses)
"""

from __future__ import annotations

from itertools import cycle, repeat

from meshnet.dns.query import AA, TC, UDP_MIN, edns
from meshnet.dns.records import NAME_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshnet.dns.query import Query

ROTATIONS_MAX = 16
"""So many are kept ready; answers with more records are turned when they are asked for."""

ALWAYS_FITS = UDP_MIN - 12 - (NAME_MAX + 4) - len(edns(False))
"""Bytes of records for which there is room behind every question."""


class Compiled:
    """The answer to one question.

    `turn` yields the records, turned, without end. `bodies` are all its turns, or empty when they
    are too many to keep. `heads` are flags and counts by those of the query, filled as they come;
    answers of equal code and counts share them. `onward` is the name, not ours, that the last CNAME
    leads to, or empty.
    """

    __slots__ = ("_parts", "bodies", "counts", "heads", "onward", "rcode", "size", "turn")

    def __init__(
        self,
        rcode: int,
        fixed: list[bytes],
        turning: list[bytes],
        authority: list[bytes],
        additional: list[bytes],
        onward: bytes = b"",
    ) -> None:
        parts = _Parts(fixed, turning, authority, additional)
        few = max(len(turning), 1) if len(turning) <= ROTATIONS_MAX else 0
        self.rcode = rcode
        self.onward = onward
        self.counts = (len(fixed) + len(turning), len(authority), len(additional))
        self.heads: dict[bytes, bytes] = {}
        self.bodies = tuple(parts.body() for _ in range(few))
        self.turn = endless(self.bodies) if few else iter(parts.body, None)
        self.size = sum(map(len, fixed + turning + authority + additional))
        # An answer that always fits needs its parts no more.
        self._parts = parts if self.size > ALWAYS_FITS else None

    def reply(self, query: Query, recursion: bool) -> bytes:
        """Return the answer to `query`, as much of it as there is room for.

        Addresses that nobody asked for go first, silently; when records of the answer have to go,
        TC says so (RFC 2181, section 9). What fits is sent still, for clients that cannot do TCP.
        """
        if self._parts is None or self.size <= query.room:
            return _frame(self, query, next(self.turn), self.counts, 0, recursion)
        answers, authority = self._parts.answers(), self._parts.authority
        needed = b"".join(answers + authority)
        if len(needed) <= query.room:
            return _frame(self, query, needed, (*self.counts[:2], 0), 0, recursion)
        fitting = _fitting(answers, query.room)
        return _frame(self, query, b"".join(fitting), (len(fitting), 0, 0), TC, recursion)


class _Parts:
    """The records of an answer, and how far they are turned."""

    __slots__ = ("_additional", "_at", "_fixed", "_turning", "authority")

    def __init__(
        self,
        fixed: list[bytes],
        turning: list[bytes],
        authority: list[bytes],
        additional: list[bytes],
    ) -> None:
        self._fixed = fixed
        self._turning = turning
        self._additional = additional
        self._at = 0
        self.authority = authority

    def answers(self) -> list[bytes]:
        """Return the answer section, turned by one more than the last time."""
        at = self._at
        self._at = (at + 1) % max(len(self._turning), 1)
        return self._fixed + self._turning[at:] + self._turning[:at]

    def body(self) -> bytes:
        """Return all sections, turned by one more than the last time."""
        return b"".join(self.answers() + self.authority + self._additional)


def endless(bodies: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the bodies in turn, for ever."""
    return cycle(bodies) if len(bodies) > 1 else repeat(bodies[0])


def _frame(
    compiled: Compiled,
    query: Query,
    body: bytes,
    counts: tuple[int, int, int],
    bits: int,
    recursion: bool,
) -> bytes:
    head = query.head(compiled.rcode, counts, AA | bits, recursion)
    return query.id + head + query.question + body + query.opt


def _fitting(records: list[bytes], room: int) -> list[bytes]:
    fitting = []
    for record in records:
        room -= len(record)
        if room < 0:
            break
        fitting.append(record)
    return fitting
