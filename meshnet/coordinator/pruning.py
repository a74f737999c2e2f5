"""Shell. Pruning: the coordinator raises the floor of its own statements (see `model.pruning`).

Nodes prune what they say themselves. Of statements those are dead that deleted something, that an
expiry has ended for longer than clocks disagree, and that another issuer has replaced since. One
thing must stay: a deletion of what another issuer stated, for that one's floor does not cover it.
"""

from __future__ import annotations

from meshnet.coordinator.committer import Batch
from meshnet.coordinator.core import Core
from meshnet.model.facts import Fact, FactSet
from meshnet.model.pruning import cut
from meshnet.model.records import Floor
from meshnet.model.statements import Lease, Statement


class Pruning:
    """Keeps the statements of this coordinator's issuing key few."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def prune(self) -> int:
        """Raise the floor when that pays; return how many statements became void."""
        return await self._core.committer.do(self._prune)

    async def _prune(self, batch: Batch) -> int:
        ended = batch.now - self._core.terms.lease_grace
        rivals = Rivals(self._core.world.facts)
        stated = batch.stated()
        found = cut(stated, lambda fact: is_dead(fact, ended, rivals))
        if found is None:
            return 0
        for fact in found.again:
            if isinstance(fact.body, Statement):
                batch.state(fact.body)
            else:
                batch.unstate(fact.slot.kind, fact.slot.key)
        batch.state(Floor(found.below))
        return sum(fact.sequence < found.below for fact in stated) - len(found.again)


class Rivals:
    """What other issuers say of the same things."""

    def __init__(self, facts: FactSet) -> None:
        self._said: dict[tuple[str, str], list[Fact]] = {}
        for fact in facts:
            self._said.setdefault((fact.slot.kind, fact.slot.key), []).append(fact)

    def of(self, fact: Fact) -> list[Fact]:
        said = self._said.get((fact.slot.kind, fact.slot.key), [])
        return [other for other in said if other.slot.writer != fact.slot.writer]


def is_dead(fact: Fact, ended: int, rivals: Rivals) -> bool:
    """Say whether nobody misses a statement; `ended`: what is over by then is over everywhere."""
    others = rivals.of(fact)
    if any(other.rank > fact.rank for other in others):
        return True
    if fact.body is None:
        return not others
    return isinstance(fact.body, Lease) and fact.body.not_after < ended
