"""Shell. Group commit: whatever is asked for at the same time becomes one durable transaction.

    handlers ─work→ queue ─→ one task: begin, do each work, write the facts, commit ─→ world, feed
        ↑                                                                    │
        └──────────────── answer, only now ──────────────────────────────────┘

A work reads and decides, and writes inside `Batch.savepoint`, so that one which fails leaves
nothing behind and the others go on. The facts it makes take one new revision together with those
of its whole batch. While a commit waits for the disk the next works gather, so the busier it is the
larger the batches, and a storm costs a few commits. A work goes on when its asker has gone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from prometheus_client import Counter, Histogram

from meshnet.coordinator.store import Counters, Store, Transaction
from meshnet.coordinator.world import Change, World
from meshnet.errors import MeshnetError, Unavailable
from meshnet.model.facts import Fact, Slot, floor_slot
from meshnet.model.keys import IdentityKey, SigningKey
from meshnet.model.records import Floor
from meshnet.model.statements import Statement
from meshnet.wire.fact import sign, sign_deletion

log = logging.getLogger(__name__)
T = TypeVar("T")

BATCH_LIMIT = 256
WAITING_LIMIT = 10_000

COMMITS = Counter("meshnet_commits", "Transactions committed")
COMMIT_SECONDS = Histogram("meshnet_commit_seconds", "Time from begin to commit")
WORKS = Counter("meshnet_works", "Works done, several in one commit")


Work = Callable[["Batch"], Awaitable[T]]


class Batch:
    """What the works of one transaction share: the transaction, its time, and what they make."""

    def __init__(
        self, tx: Transaction, world: World, signer: SigningKey, counters: Counters, now: int
    ) -> None:
        self.tx = tx
        self.world = world
        self.now = now
        self.counters = counters
        self.pending: dict[Slot, Fact] = {}
        self.forgotten: list[IdentityKey] = []
        self._mine: dict[Slot, Fact] = {}
        self._signer = signer

    @property
    def revision(self) -> int:
        """The revision that holds what this batch has made so far."""
        return self.counters.revision + bool(self._mine or self.pending or self.forgotten)

    def state(self, body: Statement | Floor) -> Fact:
        """Sign a statement, or a floor of our statements, and take it in."""
        return self._take(sign(self._signer, body, self._next_sequence()))

    def unstate(self, kind: str, key: str) -> Fact:
        """Sign that a statement holds no more, and take that in."""
        return self._take(sign_deletion(self._signer, kind, key, self._next_sequence()))

    def take(self, fact: Fact) -> bool:
        """Take in a fact; False when it is void or not newer than what is known."""
        known = self.latest(fact.slot)
        if self._is_void(fact) or (known is not None and known.rank >= fact.rank):
            return False
        self._take(fact)
        return True

    def _is_void(self, fact: Fact) -> bool:
        floor = self.latest(floor_slot(fact.slot.writer))
        below = floor.body.below if floor and isinstance(floor.body, Floor) else 0
        return not isinstance(fact.body, Floor) and fact.sequence < below

    def latest(self, slot: Slot) -> Fact | None:
        """Return the newest fact of a slot, of this batch or before."""
        return self._mine.get(slot) or self.pending.get(slot) or self.world.facts.get(slot)

    def made(self) -> list[Fact]:
        """Return the facts of this batch."""
        return [*self.pending.values(), *self._mine.values()]

    def statement(self, kind: str, key: str) -> Fact | None:
        """Return the newest statement by this coordinator's issuing key."""
        return self.latest(Slot(self._signer.public, kind, key))

    def stated(self) -> list[Fact]:
        """Return all facts by this coordinator's issuing key, before this batch."""
        return self.world.facts.of(self._signer.public)

    def next_vni(self) -> int:
        self.counters = replace(self.counters, vni=self.counters.vni + 1)
        return self.counters.vni

    async def run(self, work: Work[T]) -> T:
        """Do a work; keep what it made only if it succeeds. (Counters may skip: harmless.)"""
        self._mine = {}
        forgotten = len(self.forgotten)
        try:
            answer = await work(self)
        except BaseException:
            del self.forgotten[forgotten:]
            raise
        self.pending.update(self._mine)
        return answer

    def _take(self, fact: Fact) -> Fact:
        self._mine[fact.slot] = fact
        return fact

    def _next_sequence(self) -> int:
        """Rising for ever, even when the store is one restored from an older copy."""
        sequence = max(self.counters.sequence + 1, self.now * 1000)
        self.counters = replace(self.counters, sequence=sequence)
        return sequence


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Work[T]
    answer: asyncio.Future[T]


@dataclass(slots=True)
class _Done:
    """The outcomes of a batch's works, to be told once it is durable."""

    outcomes: list[tuple[_Job[Any], Any]] = field(default_factory=list)
    errors: list[tuple[_Job[Any], BaseException]] = field(default_factory=list)

    def tell(self) -> None:
        for job, value in self.outcomes:
            if not job.answer.done():
                job.answer.set_result(value)
        for job, error in self.errors:
            if not job.answer.done():
                job.answer.set_exception(error)


class Committer:
    """Runs works against the store, in batches, one batch at a time."""

    def __init__(
        self, store: Store, world: World, signer: SigningKey, tell: Callable[[Change], None]
    ) -> None:
        self._store = store
        self._world = world
        self._signer = signer
        self._tell = tell
        self._queue: asyncio.Queue[_Job[Any]] = asyncio.Queue(WAITING_LIMIT)

    async def do(self, work: Work[T]) -> T:
        """Run a work; when this returns its effects are durable."""
        job = _Job(work, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(job)
        except asyncio.QueueFull as error:
            raise Unavailable("the coordinator has too much to do", "Try again later.") from error
        answer: T = await job.answer
        return answer

    async def run(self) -> None:
        """Commit batches for ever."""
        while True:
            jobs = [await self._queue.get()]
            while len(jobs) < BATCH_LIMIT and not self._queue.empty():
                jobs.append(self._queue.get_nowait())
            await self._commit(jobs)

    async def _commit(self, jobs: list[_Job[Any]]) -> None:
        try:
            with COMMIT_SECONDS.time():
                done, change = await self._transact(jobs)
        except MeshnetError as error:
            _Done(errors=[(job, error) for job in jobs]).tell()
            return
        except BaseException as error:
            fault = Unavailable("the coordinator failed to store this", "See its log.")
            _Done(errors=[(job, fault) for job in jobs]).tell()
            if not isinstance(error, Exception):
                raise
            log.exception("a batch failed")
            return
        COMMITS.inc()
        WORKS.inc(len(jobs))
        if change.facts or change.forgotten:
            self._world.apply(change)
            self._tell(change)
        done.tell()

    async def _transact(self, jobs: Iterable[_Job[Any]]) -> tuple[_Done, Change]:
        done = _Done()
        async with self._store.begin() as tx:
            counters = await tx.counters()
            batch = Batch(tx, self._world, self._signer, counters, int(time.time()))
            for job in jobs:
                try:
                    done.outcomes.append((job, await batch.run(job.work)))
                except Exception as error:
                    done.errors.append((job, error))
            await _write(batch)
        change = Change(batch.revision, tuple(batch.pending.values()), tuple(batch.forgotten))
        return done, change


async def _write(batch: Batch) -> None:
    for writer in batch.forgotten:
        await batch.tx.forget(writer)
    await batch.tx.put_facts(batch.pending.values(), batch.revision)
    for fact in batch.pending.values():
        if isinstance(fact.body, Floor):
            await batch.tx.drop_below(fact.slot.writer, fact.body.below)
    counters = batch.counters
    if batch.pending or batch.forgotten:
        counters = replace(counters, revision=batch.revision)
    if batch.forgotten:
        counters = replace(counters, horizon=batch.revision)
    if counters != await batch.tx.counters():
        await batch.tx.set_counters(counters)
