"""Pure. Facts and their merge: the highest sequence of a slot, in whatever order it came.

A fact is one signed sentence. Its slot is (writer, kind, key): a newer fact replaces an older one
in the same slot, and a fact without a body deletes. Two facts with the same slot and sequence can
only come from a writer that contradicts itself; the greater payload wins, so that all who saw both
agree.

A deletion must outlive what it deletes, or the next carrier of the old fact brings it back. So that
deletions do not pile up for ever, a writer raises its *floor*: every fact of its own with a lower
sequence is void, whoever brings it and whenever. What is to stay is said again above it first
(`pruning` decides when that pays). Of two floors the higher one wins whatever its sequence, so the
floor of a set never falls, and the merge remains one that needs no order: of all facts ever seen,
the highest floor, and above it the highest of every slot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from meshnet.model.keys import IdentityKey
from meshnet.model.records import Attachment, Floor, Instance, NodeRecord, Record
from meshnet.model.statements import (
    Coordinators,
    Issuer,
    Lease,
    Membership,
    Mesh,
    Network,
    Revocation,
    Statement,
    StaticRecord,
)

STATEMENTS: dict[str, type[Statement]] = {
    kind.KIND: kind
    for kind in (
        Issuer,
        Mesh,
        Membership,
        Network,
        Lease,
        StaticRecord,
        Revocation,
        Coordinators,
    )
}
RECORDS: dict[str, type[Record]] = {
    kind.KIND: kind for kind in (NodeRecord, Attachment, Instance, Floor)
}


class Slot(NamedTuple):
    """What a fact is about: one writer's word on one key of one kind."""

    writer: IdentityKey
    kind: str
    key: str


@dataclass(frozen=True, slots=True, eq=False)
class Fact:
    """A fact whose signature holds. `body` is None for a deletion and for a kind we do not know.

    `payload` and `signature` are the bytes as they came: passing them on loses nothing.
    """

    slot: Slot
    sequence: int
    body: Statement | Record | None
    deleted: bool
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @property
    def rank(self) -> tuple[int, int, bytes]:
        """What decides between facts of one slot."""
        below = self.body.below if isinstance(self.body, Floor) else 0
        return below, self.sequence, self.payload

    @property
    def digest(self) -> bytes:
        """16 bytes that stand for this fact in a digest of many."""
        return hashlib.sha256(self.payload).digest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fact) and self.payload == other.payload

    def __hash__(self) -> int:
        return hash(self.payload)

    def __str__(self) -> str:
        word = "deleted " if self.deleted else ""
        return f"{word}{self.slot.kind} {self.slot.key!r} #{self.sequence} by {self.slot.writer}"


def floor_slot(writer: IdentityKey) -> Slot:
    """Return where a writer's floor is."""
    return Slot(writer, Floor.KIND, Floor.KIND)


class FactSet:
    """The newest fact of every slot, grouped by writer, with a digest kept as facts come and go."""

    def __init__(self, facts: Iterable[Fact] = ()) -> None:
        self._by_writer: dict[IdentityKey, dict[Slot, Fact]] = {}
        self._highest: dict[IdentityKey, int] = {}
        self._digest = 0
        self.merge(facts)

    def merge(self, facts: Iterable[Fact]) -> list[Fact]:
        """Take in what is newer than what is known; return those facts, in the order given."""
        return [fact for fact in facts if self._put(fact)]

    def _put(self, fact: Fact) -> bool:
        if self.is_void(fact):
            return False
        mine = self._by_writer.setdefault(fact.slot.writer, {})
        known = mine.get(fact.slot)
        if known is not None:
            if known.rank >= fact.rank:
                return False
            self._digest ^= int.from_bytes(known.digest, "big")
        mine[fact.slot] = fact
        self._highest.pop(fact.slot.writer, None)
        self._digest ^= int.from_bytes(fact.digest, "big")
        for void in self.voided_by(fact):
            del mine[void.slot]
            self._digest ^= int.from_bytes(void.digest, "big")
        return True

    def floor(self, writer: IdentityKey) -> int:
        """Return the sequence below which all that a writer said is void."""
        fact = self._by_writer.get(writer, {}).get(floor_slot(writer))
        return fact.body.below if fact is not None and isinstance(fact.body, Floor) else 0

    def is_void(self, fact: Fact) -> bool:
        """Say whether a fact lies below its writer's floor."""
        return not isinstance(fact.body, Floor) and fact.sequence < self.floor(fact.slot.writer)

    def is_outdated(self, fact: Fact) -> bool:
        """Say whether its writer has said something newer, as far as is known here."""
        known = self.get(fact.slot)
        return self.is_void(fact) or (known is not None and fact.sequence < known.sequence)

    def voided_by(self, fact: Fact) -> list[Fact]:
        """Return the facts that `fact` makes void, if it is a floor."""
        if not isinstance(fact.body, Floor):
            return []
        mine = self._by_writer.get(fact.slot.writer, {}).values()
        return [f for f in mine if f.sequence < fact.body.below and not isinstance(f.body, Floor)]

    def forget(self, writer: IdentityKey) -> None:
        """Drop all facts of a writer, as for one that is no member and fills our memory."""
        self._highest.pop(writer, None)
        for fact in self._by_writer.pop(writer, {}).values():
            self._digest ^= int.from_bytes(fact.digest, "big")

    def get(self, slot: Slot) -> Fact | None:
        return self._by_writer.get(slot.writer, {}).get(slot)

    def of(self, writer: IdentityKey) -> list[Fact]:
        """Return a writer's facts, sorted by slot."""
        return sorted(self._by_writer.get(writer, {}).values(), key=lambda fact: fact.slot)

    @property
    def writers(self) -> list[IdentityKey]:
        return sorted(self._by_writer)

    @property
    def digest(self) -> str:
        """32 hex digits, equal for equal sets whatever the order of arrival."""
        return f"{self._digest:032x}"

    def vector(self) -> dict[IdentityKey, int]:
        """Return the highest sequence known of every writer."""
        return {writer: self._high(writer) for writer, facts in self._by_writer.items() if facts}

    def _high(self, writer: IdentityKey) -> int:
        """Return a writer's highest sequence; it is kept until the writer says something new."""
        high = self._highest.get(writer)
        if high is None:
            facts = self._by_writer[writer].values()
            high = self._highest[writer] = max(fact.sequence for fact in facts)
        return high

    def since(self, vector: dict[IdentityKey, int]) -> list[Fact]:
        """Return the facts that a holder of `vector` lacks, older first."""
        behind = (
            (facts.values(), vector.get(writer, -1))
            for writer, facts in self._by_writer.items()
            if facts and self._high(writer) > vector.get(writer, -1)
        )
        missing = [fact for facts, known in behind for fact in facts if fact.sequence > known]
        return sorted(missing, key=lambda fact: (fact.sequence, fact.slot))

    def __iter__(self) -> Iterator[Fact]:
        for writer in self.writers:
            yield from self.of(writer)

    def __len__(self) -> int:
        return sum(len(facts) for facts in self._by_writer.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FactSet) and list(self) == list(other)
