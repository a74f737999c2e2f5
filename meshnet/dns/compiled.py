"""Pure. One answer in wire form, with its rotations made beforehand.

The records of an answer stand behind the question, whose name they point to, so the same bytes
serve whatever case the question was asked in:

    fixed (CNAMEs) │ turning, by one each time │ authority (SOA) │ additional (addresses)
"""

from __future__ import annotations

from itertools import cycle

from meshnet.dns.query import AA, TC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshnet.dns.query import Query

ROTATIONS_MAX = 16
"""So many are kept ready; answers with more records are turned when they are asked for."""


class Compiled:
    """The answer to one question.

    `turn` yields the records, turned, without end. `bodies` are all its turns, or empty when they
    are too many to keep. `heads` are flags and counts by those of the query, filled as they come.
    """

    __slots__ = (
        "_at",
        "_turning",
        "additional",
        "authority",
        "bodies",
        "fixed",
        "heads",
        "rcode",
        "size",
        "turn",
    )

    def __init__(
        self,
        rcode: int,
        fixed: list[bytes],
        turning: list[bytes],
        authority: list[bytes],
        additional: list[bytes],
    ) -> None:
        self.rcode = rcode
        self.fixed = fixed
        self.authority = authority
        self.additional = additional
        self.heads: dict[bytes, bytes] = {}
        self._turning = turning
        self._at = 0
        self.size = sum(map(len, fixed + turning + authority + additional))
        few = max(len(turning), 1) if len(turning) <= ROTATIONS_MAX else 0
        self.bodies = tuple(self._body() for _ in range(few))
        self.turn: Iterator[bytes] = cycle(self.bodies) if few else iter(self._body, None)

    @property
    def counts(self) -> tuple[int, int, int]:
        """The records in the sections answer, authority and additional."""
        return len(self.fixed) + len(self._turning), len(self.authority), len(self.additional)

    def reply(self, query: Query, recursion: bool) -> bytes:
        """Return the answer to `query`, as much of it as there is room for.

        Addresses that nobody asked for go first, silently; when records of the answer have to go,
        TC says so (RFC 2181, section 9). What fits is sent still, for clients that cannot do TCP.
        """
        if self.size <= query.room:
            return _frame(self, query, next(self.turn), self.counts, 0, recursion)
        answers = self._answers()
        needed = b"".join(answers + self.authority)
        if len(needed) <= query.room:
            counts = (len(answers), len(self.authority), 0)
            return _frame(self, query, needed, counts, 0, recursion)
        fitting = _fitting(answers, query.room)
        return _frame(self, query, b"".join(fitting), (len(fitting), 0, 0), TC, recursion)

    def _answers(self) -> list[bytes]:
        """Return the answer section, turned by one more than the last time."""
        at = self._at
        self._at = (at + 1) % max(len(self._turning), 1)
        return self.fixed + self._turning[at:] + self._turning[:at]

    def _body(self) -> bytes:
        return b"".join(self._answers() + self.authority + self.additional)


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
