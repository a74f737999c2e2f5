"""Shell. The one task that changes the kernel: desired, fresh read, diff, apply.

Everything else only says that something may have changed (`wake`). There are two kinds of pass:

* An audit reads what the kernel has now, so it does not matter what we did last. What it has to do
  although nothing is wanted differently is a repair of what somebody else did, and counted as one.
  Entries by the thousand are read when an event has told of a change, and now and then without.
* A change is planned against what the last clean pass left, and applied at once: its cost follows
  the change and not the mesh. Context: reading 10,000 entries takes longer than all the rest of a
  pass. Price: for AUDIT_GAP, until the audit that every change calls for, we go by memory.

An operation that fails does not stop the others; an audit follows, with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import Counter, Histogram

from meshnet.agent.waiting import happened
from meshnet.errors import KernelRefused, MeshnetError
from meshnet.linux.port import Kernel
from meshnet.plan.diff import plan, spared
from meshnet.plan.operations import Operation
from meshnet.plan.state import Host

log = logging.getLogger(__name__)

REPAIRS = Counter("meshnet_repairs", "Drift put right, by kind of operation", ["kind"])
FAILURES = Counter("meshnet_operations_failed", "Operations the kernel refused", ["kind"])
PASSES = Histogram("meshnet_reconcile_seconds", "Time of one pass: read, plan, apply")

AUDIT_INTERVAL = 3.5
"""Seconds after which the kernel is read although nothing woke us: drift lasts no longer."""
AUDIT_GAP = 1.0
"""Seconds between two audits, at least, and from a change to the audit that looks at it."""
AUDIT_SHARE = 0.05
"""Of the time, what reading for audits may take: where the machine is slow they are rarer, ..."""
AUDIT_LATEST = 20.0
"""... but not by more than these seconds."""
SETTLE = 0.01
"""Seconds from a wake to the pass, in which further wakes join it; none while somebody waits."""
RETRY_FIRST, RETRY_LAST = 0.2, 10.0


@dataclass(slots=True)
class Outcome:
    """What one pass did."""

    operations: list[Operation] = field(default_factory=list)
    failed: list[tuple[Operation, MeshnetError]] = field(default_factory=list)
    seconds: float = 0.0
    reading: float = 0.0
    audit: bool = False
    unread: str = ""


class Reconciler:
    """Brings the kernel to what `want` returns; takes nothing away while `may_remove` is false.

    `look` is called before an audit, for what may have come to an end.
    """

    def __init__(
        self,
        kernel: Kernel,
        want: Callable[[], Host],
        look: Callable[[], None],
        may_remove: Callable[[], bool],
        seen: Callable[[Host], None],
        done: Callable[[Outcome], None],
    ) -> None:
        self._kernel = kernel
        self._want = want
        self._look = look
        self._may_remove = may_remove
        self._seen = seen
        self._done = done
        self._dirty = True
        self._turn = asyncio.Lock()
        self._waiters: list[asyncio.Future[Outcome]] = []
        self._settled: Host | None = None
        self._equal: tuple[Host, Host] | None = None
        self._nudge = asyncio.Event()
        self._idle = asyncio.Event()
        self._audited = 0.0
        self._audit_at = 0.0
        self._audit_pause = 0.0
        self._retry = RETRY_FIRST
        self.repairs: dict[str, int] = {}
        self.last = 0.0
        self.failing: list[str] = []

    @property
    def settled(self) -> Host:
        """What the last clean pass left; an empty host after one that was not clean."""
        return self._settled or Host()

    def wake(self) -> None:
        """Something may be wanted differently."""
        self._dirty = True
        self._nudge.set()

    def doubt(self) -> None:
        """The kernel may have changed behind our back."""
        at = self._audited + max(AUDIT_GAP, self._audit_pause)
        self._audit_at = min(self._audit_at, max(time.monotonic(), at))
        self._nudge.set()

    async def run(self) -> None:
        """Reconcile for ever."""
        while True:
            await happened(self._nudge, self._nap())
            self._nudge.clear()
            if self._dirty and not self._waiters:
                await asyncio.sleep(SETTLE)
            if self._dirty or self._nap() <= 0:
                await self.once()

    def _nap(self) -> float:
        return 0 if self._dirty else max(0.0, self._audit_at - time.monotonic())

    async def soon(self) -> Outcome:
        """Return the outcome of the next pass to begin; those who wait together share it."""
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.wake()
        return await waiter

    async def audit(self) -> Outcome:
        """Return the outcome of an audit that begins now."""
        self._audit_at = 0.0
        return await self.soon()

    async def once(self) -> Outcome:
        """Do one pass and return what it did. Passes never overlap."""
        async with self._turn:
            self._idle.clear()
            self._dirty = False
            waiters, self._waiters = self._waiters, []
            started = time.monotonic()
            if started >= self._audit_at:
                self._look()
            want = self._want()
            outcome = await _shielded(lambda: self._pass(want, remove=self._may_remove()))
            outcome.seconds = time.monotonic() - started
            PASSES.observe(outcome.seconds)
            self._report(want, outcome)
            self._done(outcome)
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(outcome)
            self._idle.set()
            return outcome

    async def idle(self, limit: float) -> None:
        """Wait until no pass is under way, for `limit` seconds at most."""
        await happened(self._idle, limit)

    async def preview(self) -> list[Operation]:
        """Return what a pass would do now, without doing it."""
        async with self._turn:
            want = self._want()
            have = await asyncio.to_thread(self._kernel.read)
            return plan(want, have, remove=self._may_remove())

    def _pass(self, want: Host, *, remove: bool) -> Outcome:
        """Plan and apply; against the kernel when an audit is due, else against the last pass."""
        audit = self._settled is None or time.monotonic() >= self._audit_at
        outcome = Outcome(audit=audit)
        have = self._read(outcome) if audit else self._settled
        if have is None:
            return outcome
        known = spared(want, have, self._equal) if audit else have
        for operation in plan(want, known, remove=remove):
            try:
                self._kernel.apply(operation)
            except MeshnetError as error:
                outcome.failed.append((operation, error))
            outcome.operations.append(operation)
        if audit and known is not have:
            self._equal = known, have
        if audit and remove and not outcome.operations:
            self._equal = want, have
        return outcome

    def _read(self, outcome: Outcome) -> Host | None:
        """Read the kernel; an audit that is asked for, or follows a failure, trusts no silence."""
        started = time.monotonic()
        try:
            trusting = self._settled is not None and self._audit_at > 0.0
            have = self._kernel.read(trusting=trusting)
        except MeshnetError as error:
            log.error("reading the kernel failed: %s", error.message)
            outcome.unread = error.whole
            return None
        finally:
            outcome.reading = time.monotonic() - started
        self._seen(have)
        return have

    def _report(self, want: Host, outcome: Outcome) -> None:
        self.last = time.time()
        self._count(outcome, drifted=outcome.audit and want == self._settled)
        self.failing = [f"{operation}: {error.whole}" for operation, error in outcome.failed]
        self.failing += [outcome.unread] if outcome.unread else []
        now = time.monotonic()
        if outcome.audit:
            self._audited = now
            self._audit_pause = min(outcome.reading / AUDIT_SHARE, AUDIT_LATEST)
        if self.failing:
            self._settled = None
            self._retry = min(self._retry * 2, RETRY_LAST)
            self._audit_at = now + self._retry
        else:
            self._settled = want
            self._retry = RETRY_FIRST
            gap = max(AUDIT_GAP if outcome.operations else AUDIT_INTERVAL, self._audit_pause)
            self._audit_at = now + gap if outcome.audit else min(self._audit_at, now + gap)

    def _count(self, outcome: Outcome, *, drifted: bool) -> None:
        for operation in outcome.operations:
            log.info("%s%s", "repair: " if drifted else "", operation)
            if drifted:
                kind = type(operation).__name__
                self.repairs[kind] = self.repairs.get(kind, 0) + 1
                REPAIRS.labels(kind).inc()
        for operation, error in outcome.failed:
            FAILURES.labels(type(operation).__name__).inc()
            log.error("%s failed: %s", operation, error.message)


def is_port_clash(error: MeshnetError) -> bool:
    """Say whether the kernel refused because another socket has the UDP port."""
    return isinstance(error, KernelRefused) and error.errno == 98


async def _shielded(work: Callable[[], Outcome]) -> Outcome:
    """Run a pass in a thread to its end, even when the task that asked for it is cancelled."""
    thread = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise
