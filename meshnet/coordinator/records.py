"""Shell. Static DNS records, set by administrators; checked by the same reader that serves them."""

from __future__ import annotations

import logging
import time

import msgspec

from meshnet.coordinator.committer import Batch
from meshnet.coordinator.core import Core
from meshnet.dns.static import read_static
from meshnet.errors import BadInput, NotFound
from meshnet.model.statements import StaticRecord

log = logging.getLogger(__name__)


class Records:
    """The static records of the zone."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def set(self, record: StaticRecord) -> int:
        """Set an RRset, in place of one of that name and type; return the revision."""
        record = msgspec.structs.replace(
            record, name=record.name.lower().rstrip("."), type=record.type.upper()
        )
        _, problems = read_static([record])
        if problems:
            raise BadInput(problems[0])

        async def work(batch: Batch) -> int:
            batch.state(record)
            return batch.revision

        revision = await self._core.committer.do(work)
        log.info("static record %s set", record.slot)
        return revision

    async def remove(self, name: str, kind: str) -> int:
        """Remove an RRset; return the revision."""
        slot = f"{name.lower().rstrip('.')} {kind.upper()}"

        async def work(batch: Batch) -> int:
            if slot not in {r.slot for r in self._core.world.statements(time.time()).static}:
                raise NotFound(f"there is no static record {slot}")
            batch.unstate(StaticRecord.KIND, slot)
            return batch.revision

        revision = await self._core.committer.do(work)
        log.info("static record %s removed", slot)
        return revision
