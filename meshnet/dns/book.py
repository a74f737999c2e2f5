"""Pure. Who claims which name, and what therefore stands in each layer.

A subject (one node, one service, one static owner) claims names in layers, each with a rank and
the records it would put there. For every name the lowest rank wins; equal ranks go by subject, so
that the outcome does not depend on the order of events. A name of an upper layer stands there only
when nothing in the common layer outranks it, and when it says something else.

Claims are kept, so a subject that changes touches only its own names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from meshnet.dns.records import NAME_MAX
from meshnet.dns.table import COMMON, Layer
from meshnet.model.patched import Patched

Subject = tuple[str, ...]


class Claim(NamedTuple):
    """In `layer`, `owner` has `records`, unless a lower `rank` claims it."""

    layer: str
    rank: int
    owner: bytes
    records: bytes


class Stake(NamedTuple):
    """A claim as it lies at its owner. Tuples of these sort by what wins."""

    rank: int
    subject: Subject
    layer: str
    records: bytes


class Book:
    """The claims of all subjects and the layers they make."""

    def __init__(self) -> None:
        self._stakes: dict[bytes, tuple[Stake, ...]] = {}
        self._owners: dict[Subject, frozenset[bytes]] = {}
        self._layers: dict[str, Layer] = {COMMON: Patched({}, {})}
        self._touched: set[bytes] = set()

    def claim(self, subject: Subject, claims: Iterable[Claim]) -> None:
        """Put these claims in the place of all that `subject` had before."""
        fresh: dict[bytes, list[Stake]] = {}
        for layer, rank, owner, records in claims:
            if len(owner) <= NAME_MAX:
                fresh.setdefault(owner, []).append(Stake(rank, subject, layer, records))
        before = self._owners.pop(subject, frozenset())
        if fresh:
            self._owners[subject] = frozenset(fresh)
        for owner in before.union(fresh):
            self._stake(subject, owner, fresh.get(owner, []))

    def _stake(self, subject: Subject, owner: bytes, fresh: list[Stake]) -> None:
        known = self._stakes.get(owner, ())
        stakes = tuple(sorted([stake for stake in known if stake.subject != subject] + fresh))
        if stakes == known:
            return
        self._touched.add(owner)
        if stakes:
            self._stakes[owner] = stakes
        else:
            del self._stakes[owner]

    def settle(self, layers: Iterable[str]) -> Mapping[str, Layer]:
        """Return the common layer and `layers` as they are now.

        A layer in which nothing changed is the same object as the last time.
        """
        wanted = {COMMON, *layers}
        self._layers = {layer: self._layers.get(layer, Patched({}, {})) for layer in sorted(wanted)}
        changes: dict[str, dict[bytes, bytes | None]] = {layer: {} for layer in self._layers}
        for owner in self._touched:
            standing = _standing(self._stakes.get(owner, ()))
            for layer, names in self._layers.items():
                records = standing.get(layer)
                if names.get(owner) != records:
                    changes[layer][owner] = records
        self._touched.clear()
        for layer, changed in changes.items():
            if changed:
                self._layers[layer] = Patched(self._layers[layer], changed)
        return self._layers


def _standing(stakes: tuple[Stake, ...]) -> dict[str, bytes]:
    """Return the records by layer; `stakes` are sorted, so the first of a layer wins there."""
    first: dict[str, Stake] = {}
    for stake in stakes:
        first.setdefault(stake.layer, stake)
    common = first.get(COMMON)
    return {
        layer: stake.records
        for layer, stake in first.items()
        if stake is common
        or common is None
        or (stake.rank <= common.rank and stake.records != common.records)
    }
