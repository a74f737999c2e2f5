"""Shell. Publishing: a node hands over facts about itself.

A request is refused as a whole when it carries anything that is not the asker's own signed word. Of
what is, a fact that would not hold (see `model.view`) is not taken and named in the answer, and one
that is not news is passed over in silence. The answer is sent when the rest is on disk.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prometheus_client import Counter

from meshnet.coordinator.committer import Batch
from meshnet.coordinator.core import Core
from meshnet.errors import BadInput, Refused
from meshnet.model.facts import RECORDS, Fact
from meshnet.model.records import Instance
from meshnet.model.statements import Membership
from meshnet.wire.api import FACTS_LIMIT, Published, PublishRequest, RefusedFact
from meshnet.wire.fact import open_fact

log = logging.getLogger(__name__)

TAKEN = Counter("meshnet_facts_taken", "Facts of nodes that were taken")
NOT_TAKEN = Counter("meshnet_coordinator_facts_refused", "Facts of nodes that would not hold")


class Publishing:
    """Takes records of members."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def publish(self, member: Membership, request: PublishRequest) -> Published:
        """Store a member's facts; raise Refused, NotAuthentic or BadInput when they are not its."""
        if len(request.facts) > FACTS_LIMIT:
            raise BadInput(f"at most {FACTS_LIMIT} facts can be published at once")
        facts = [open_fact(signed) for signed in request.facts]
        for fact in facts:
            _check_own(fact, member)
        facts.sort(key=lambda fact: isinstance(fact.body, Instance))
        answer = await self._core.committer.do(lambda batch: self._take(batch, member, facts))
        TAKEN.inc(len(facts) - len(answer.refused))
        NOT_TAKEN.inc(len(answer.refused))
        for refused in answer.refused:
            log.warning(
                "%s %r of node %s: %s", refused.kind, refused.key, member.name, refused.reason
            )
        return answer

    async def _take(self, batch: Batch, member: Membership, facts: Sequence[Fact]) -> Published:
        world = self._core.world
        world.statements(batch.now)
        refused: list[RefusedFact] = []
        for fact in facts:
            known = batch.latest(fact.slot)
            reason = world.objection(fact, member, batch.latest)
            if (
                (known is None or known.deleted)
                and not fact.deleted
                and world.is_full(member.identity)
            ):
                reason = "the node has said too many things already"
            if reason:
                refused.append(RefusedFact(fact.slot.kind, fact.slot.key, reason))
            else:
                batch.take(fact)
        return Published(batch.revision, tuple(refused))


def _check_own(fact: Fact, member: Membership) -> None:
    if fact.slot.writer != member.identity:
        raise Refused(f"{fact} is not the word of node {member.name}")
    if fact.slot.kind not in RECORDS:
        raise Refused(f"{fact} is nothing a node can say")
