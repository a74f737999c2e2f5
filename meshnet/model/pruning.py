"""Pure. When a writer raises its floor, and what it says again before.

    sequence   1  2  3  4  5  6  7  8  9        x  dead: a deletion, or what has ended by itself
               o  x  x  o  x  x  x  o  x        o  what is to stay
                           cut ▲
    2 and 3, 5 to 7 go away; 1 and 4 are said again above 9, and then the floor is raised to 8

Every fact that is said again travels to all nodes, so a cut must free more than it costs. It is
made where the difference is greatest, and only when it is SPARE at least: deletions are never more
than what is alive and SPARE, and a fact is said again once for each that goes away, at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from meshnet.model.facts import Fact
from meshnet.model.records import Floor

SPARE = 64
AGAIN_LIMIT = 2000
"""Facts said again by one cut, at most."""


class Cut(NamedTuple):
    """Say `again`, above all that was said, and then raise the floor to `below`."""

    again: list[Fact]
    below: int


def cut(facts: Iterable[Fact], is_dead: Callable[[Fact], bool]) -> Cut | None:
    """Return the cut that frees most of one writer's facts, None when none is worth it."""
    ordered = sorted(
        (fact for fact in facts if not isinstance(fact.body, Floor)),
        key=lambda fact: (fact.sequence, fact.slot),
    )
    best, below, freed, again = SPARE - 1, 0, 0, 0
    for fact in ordered:
        if is_dead(fact):
            freed += 1
        else:
            again += 1
        if freed - again > best and again <= AGAIN_LIMIT:
            best, below = freed - again, fact.sequence + 1
    if not below:
        return None
    return Cut([fact for fact in ordered if fact.sequence < below and not is_dead(fact)], below)
