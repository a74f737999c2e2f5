"""Shell. The one task that changes the kernel: desired, fresh read, diff, apply.

Everything else only says that something may have changed (`wake`). A pass reads what the kernel
has now, so it does not matter what we did last; a pass that finds nothing to do costs a read. When
nothing was wanted differently since the last clean pass, what a pass has to do is a repair of what
somebody else did, and is counted as one.

An operation that fails does not stop the others; the pass is repeated, with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import Counter, Histogram

from meshnet.errors import KernelRefused, MeshnetError
from meshnet.linux.port import Kernel
from meshnet.plan.diff import plan
from meshnet.plan.operations import Operation
from meshnet.plan.state import Host

log = logging.getLogger(__name__)

REPAIRS = Counter("meshnet_repairs", "Drift put right, by kind of operation", ["kind"])
FAILURES = Counter("meshnet_operations_failed", "Operations the kernel refused", ["kind"])
PASSES = Histogram("meshnet_reconcile_seconds", "Time of one pass: read, plan, apply")

AUDIT_INTERVAL = 4.0
"""Seconds after which the kernel is read although nothing woke us: drift lasts no longer."""
SETTLE = 0.01
"""Seconds between a wake and the pass, in which further wakes join it."""
RETRY_FIRST, RETRY_LAST = 0.2, 10.0


@dataclass(slots=True)
class Outcome:
    """What one pass did."""

    operations: list[Operation] = field(default_factory=list)
    failed: list[tuple[Operation, MeshnetError]] = field(default_factory=list)
    seconds: float = 0.0


class Reconciler:
    """Brings the kernel to what `want` returns; takes nothing away while `may_remove` is false."""

    def __init__(
        self,
        kernel: Kernel,
        want: Callable[[], Host],
        may_remove: Callable[[], bool],
        seen: Callable[[Host], None],
        done: Callable[[Outcome], None],
    ) -> None:
        self._kernel = kernel
        self._want = want
        self._may_remove = may_remove
        self._seen = seen
        self._done = done
        self._dirty = asyncio.Event()
        self._turn = asyncio.Lock()
        self._waiters: list[asyncio.Future[Outcome]] = []
        self._settled: Host | None = None
        self.repairs: dict[str, int] = {}
        self.last = 0.0
        self.failing: list[str] = []

    def wake(self) -> None:
        """Something may have changed."""
        self._dirty.set()

    async def run(self) -> None:
        """Reconcile for ever."""
        pause = RETRY_FIRST
        while True:
            limit = pause if self.failing else AUDIT_INTERVAL
            try:
                await asyncio.wait_for(self._dirty.wait(), limit)
                await asyncio.sleep(SETTLE)
            except TimeoutError:
                pass
            await self.once()
            pause = min(pause * 2, RETRY_LAST) if self.failing else RETRY_FIRST

    async def soon(self) -> Outcome:
        """Return the outcome of the next pass to begin; those who wait together share it."""
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.wake()
        return await waiter

    async def once(self) -> Outcome:
        """Do one pass and return what it did. Passes never overlap."""
        async with self._turn:
            self._dirty.clear()
            waiters, self._waiters = self._waiters, []
            started = time.monotonic()
            want = self._want()
            outcome = await _shielded(lambda: self._pass(want, remove=self._may_remove()))
            outcome.seconds = time.monotonic() - started
            PASSES.observe(outcome.seconds)
            self._report(want, outcome)
            self._done(outcome)
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(outcome)
            return outcome

    async def preview(self) -> list[Operation]:
        """Return what a pass would do now, without doing it."""
        async with self._turn:
            want = self._want()
            have = await asyncio.to_thread(self._kernel.read)
            return plan(want, have, remove=self._may_remove())

    def _pass(self, want: Host, *, remove: bool) -> Outcome:
        outcome = Outcome()
        try:
            have = self._kernel.read()
        except MeshnetError as error:
            log.error("reading the kernel failed: %s", error.message)
            self.failing = [error.message]
            return outcome
        self._seen(have)
        for operation in plan(want, have, remove=remove):
            try:
                self._kernel.apply(operation)
            except MeshnetError as error:
                outcome.failed.append((operation, error))
            outcome.operations.append(operation)
        self.failing = [f"{operation}: {error.message}" for operation, error in outcome.failed]
        return outcome

    def _report(self, want: Host, outcome: Outcome) -> None:
        self.last = time.time()
        drifted = want == self._settled
        for operation in outcome.operations:
            log.info("%s%s", "repair: " if drifted else "", operation)
            if drifted:
                kind = type(operation).__name__
                self.repairs[kind] = self.repairs.get(kind, 0) + 1
                REPAIRS.labels(kind).inc()
        for operation, error in outcome.failed:
            FAILURES.labels(type(operation).__name__).inc()
            log.error("%s failed: %s", operation, error.message)
        if not self.failing:
            self._settled = want


def is_port_clash(error: MeshnetError) -> bool:
    """Say whether the kernel refused because another socket has the UDP port."""
    return isinstance(error, KernelRefused) and error.errno == 98


async def _shielded(work: Callable[[], Outcome]) -> Outcome:
    """Run a pass in a thread to its end, even when the task that asked for it is cancelled."""
    thread = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise
