"""Shell. The line to a coordinator: watch, publish, renew, lease. The mesh works without it.

`mirror` is the set of facts the coordinator has, as far as it told us; its digest must be the one
each line of the stream names, or something was lost and a snapshot is asked for. What this node
says and the mirror lacks is published, at once and again whenever the line comes back.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable, Sequence

from prometheus_client import Counter, Gauge

from meshnet.agent.client import CoordinatorClient
from meshnet.agent.node import MeshNode
from meshnet.errors import MeshnetError, Refused, Unavailable
from meshnet.model.addresses import Address, Prefix
from meshnet.model.facts import Fact, FactSet
from meshnet.model.keys import PrivateKey
from meshnet.wire.api import FACTS_LIMIT, Granted, HeldLease, Line
from meshnet.wire.fact import SignedFact, seal

log = logging.getLogger(__name__)

CONNECTED = Gauge("meshnet_coordinator_connected", "Whether a coordinator's stream is open")
SNAPSHOTS = Counter("meshnet_snapshots", "Snapshots asked for because a digest did not match")

RENEW_CHECK = 60.0
RETRY_FIRST, RETRY_LAST = 0.3, 30.0
ANSWER_LIMIT = 10.0


class Uplink:
    """The tasks that speak with coordinators."""

    def __init__(self, node: MeshNode, client: CoordinatorClient) -> None:
        self._node = node
        self._client = client
        self._mirror = FactSet()
        self._snapshot: list[SignedFact] = []
        self._acknowledged: set[Fact] = set()
        self._to_publish = asyncio.Event()
        self.store = ""
        self.revision: int | None = None
        self.since = int(time.time())
        self.last_error = ""
        node.publishers.append(lambda _facts: self._to_publish.set())

    @property
    def connected(self) -> bool:
        return self._node.connected

    @property
    def url(self) -> str:
        return self._client.url

    async def run(self) -> None:
        """Hold the line for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._publish())
            group.create_task(self._renew())

    # Facts in

    async def _watch(self) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                async for line in self._client.watch(self.revision, self.store):
                    self._take(line)
                    pause = RETRY_FIRST
                raise Unavailable("the coordinator ended the stream")
            except MeshnetError as error:
                self._lost(error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, RETRY_LAST)

    def _take(self, line: Line) -> None:
        if line.store:
            self.store = line.store
        if line.seen:
            self._node.seen_by_coordinator(line.seen)
            return
        for writer in line.forgotten:
            self._mirror.forget(writer)
        if line.snapshot:
            self._snapshot += line.facts
            if line.more:
                return
            self._take_snapshot()
        elif line.facts:
            self._mirror.merge(self._merge(line.facts))
        if line.forgotten:
            self._node.book.forget_strangers()
        if line.revision is not None:
            self.revision = line.revision
        if line.suspect:
            self._node.prober.hint(line.suspect)
        self._found()
        self._compare(line.digest)

    def _merge(self, signed: Sequence[SignedFact]) -> list[Fact]:
        """Take facts into the book; return them as facts, news or not."""
        opened = self._node.book.open(signed, "a coordinator")
        news = self._node.book.admit(opened)
        if news:
            self._node.took(news)
        return opened

    def _take_snapshot(self) -> None:
        facts, self._snapshot = self._snapshot, []
        self._mirror = FactSet(self._merge(facts))
        self._acknowledged.clear()
        self._node.complete()

    def _compare(self, digest: str) -> None:
        if digest and digest != self._mirror.digest:
            SNAPSHOTS.inc()
            self.revision = None
            raise Unavailable("the coordinator's facts are not those it told us: asking again")

    def _found(self) -> None:
        if not self._node.connected:
            log.info("connected to coordinator %s at revision %s", self.url, self.revision)
            self._node.connected = True
            self.since = int(time.time())
            self.last_error = ""
            CONNECTED.set(1)
            self._node.changed()
            self._to_publish.set()

    def _lost(self, error: MeshnetError) -> None:
        if self._node.connected or error.message != self.last_error:
            log.warning("no coordinator: %s", error.message)
        if self._node.connected:
            self.since = int(time.time())
        self._node.connected = False
        self._snapshot = []
        self.last_error = error.message
        CONNECTED.set(0)

    # Facts out

    async def _publish(self) -> None:
        while True:
            await self._to_publish.wait()
            self._to_publish.clear()
            missing = self._missing()
            if not missing or not self.connected:
                continue
            try:
                await self._send(missing)
            except Refused as error:
                log.error("publishing was refused: %s", error.message)
            except MeshnetError as error:
                log.warning("publishing waits: %s", error.message)
                await asyncio.sleep(random.uniform(0.2, 1.0))
                self._to_publish.set()

    def _missing(self) -> list[Fact]:
        """Return what this node says and the coordinator has not told us it knows, in order."""
        self._acknowledged.intersection_update(self._node.book.own)
        missing = [
            fact
            for fact in self._node.book.own
            if self._mirror.get(fact.slot) != fact and fact not in self._acknowledged
        ]
        return sorted(missing, key=lambda fact: fact.sequence)

    async def _send(self, facts: Sequence[Fact]) -> None:
        for start in range(0, len(facts), FACTS_LIMIT):
            batch = facts[start : start + FACTS_LIMIT]
            published = await self._client.publish([seal(fact) for fact in batch])
            for refused in published.refused:
                log.warning("%s %s not taken: %s", refused.kind, refused.key, refused.reason)
            self._acknowledged.update(batch)

    # Statements

    async def lease(self, network: str, family: int, address: Address | None = None) -> None:
        """Ask for another block, or for one address; the view holds it when this returns."""
        known = tuple(
            lease.prefix
            for lease in self._node.view.statements.leases.get(self._node.id, ())
            if lease.network == network and lease.prefix.version == family
        )
        self._granted(await self._client.lease(network, family, address, known))

    async def create_network(
        self, name: str, prefixes: tuple[Prefix, ...], *, flood: bool, transient: bool = False
    ) -> None:
        made = self._client.create_network(name, prefixes, flood=flood, transient=transient)
        self._granted(await made)

    async def remove_network(self, name: str) -> None:
        self._granted(await self._client.remove_network(name))

    async def leave(self, network: str) -> None:
        """Give back all leases of a network."""
        self._granted(await self._client.leave_network(network))

    async def certify(self, keys: Iterable[PrivateKey]) -> None:
        """Have the membership renewed for these WireGuard keys and no others."""
        self._granted(await self._client.renew(self._held(), keys))

    def _granted(self, granted: Granted) -> None:
        self._merge(granted.facts)
        self._node.book.refresh()
        self._node.changed()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_CHECK * random.uniform(0.5, 1.0))
            if self.connected and self._is_to_renew(time.time()):
                try:
                    await self.certify(self._node.keys)
                    log.info("membership and leases renewed")
                except MeshnetError as error:
                    log.warning("renewal waits: %s", error.message)

    def _is_to_renew(self, now: float) -> bool:
        """Say whether a term is half over, or others are certified than the keys we have."""
        me = self._node.me
        if me is not None and me.membership.wireguard != self._node.announced:
            return True
        statements = self._node.view.statements
        mine = [*statements.leases.get(self._node.id, ())]
        terms = [(lease.issued, lease.not_after) for lease in mine]
        if me is not None:
            terms.append((me.membership.issued, me.membership.not_after))
        return any(now - issued >= (not_after - issued) / 2 for issued, not_after in terms)

    def _held(self) -> list[HeldLease]:
        leases = self._node.view.statements.leases.get(self._node.id, ())
        return [HeldLease(lease.network, lease.prefix) for lease in leases]
