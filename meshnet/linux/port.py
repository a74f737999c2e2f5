"""Driver. The kernel port: what an agent asks of its host's kernel.

`linux.kernel.LinuxKernel` is the real one, the tests have one in memory, and one contract suite
runs against both. What every implementation promises:

* `read` says what is, never what was done last. A part that is missing, down or not wired the way
  `apply` would wire it reads as zero (MTU 0, VNI 0, empty MAC), so that it differs from any wish.
* `apply` brings about what the operation says, whatever was there before, and a second time
  changes nothing. Removing what is gone is no error. Changing a network that is not there is
  NotFound, so is a port into a namespace that has ended. What the kernel refuses is KernelRefused.
* What does not carry our mark is never touched: Conflict when it is in the way.

All calls block for milliseconds and may come from any thread, one at a time being served.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Protocol

from meshnet.plan.operations import Operation
from meshnet.plan.state import Host


@dataclass(frozen=True, slots=True)
class Event:
    """Something may have changed: on the host, in some networks. `lost`: anything may have.

    Own changes come back as events too. What the events say is not in them: read.
    """

    host: bool = False
    networks: frozenset[str] = frozenset()
    lost: bool = False


class Kernel(Protocol):
    """One host's kernel, as far as meshnet uses it."""

    @property
    def backend(self) -> str:
        """Which WireGuard it is: `kernel`, or `wireguard-go VERSION`; for people."""
        ...

    def read(
        self,
        networks: Collection[str] | None = None,
        tunnel: bool = True,
        *,
        trusting: bool = False,
    ) -> Host:
        """Return what is ours now.

        With `networks` only those segments are read and returned, None is all. Without `tunnel`
        tunnel and guard are left out. When `trusting`, and while `events` is listened to, FDB and
        neighbours of which no event has told since may be those of the last read, the same objects.
        """
        ...

    def apply(self, operation: Operation) -> None:
        """Bring about what the operation says."""
        ...

    def purge(self) -> list[str]:
        """Remove all that carries our mark, known to us or not; return a line for each thing."""
        ...

    def events(self) -> AsyncIterator[Event]:
        """Yield events for as long as the caller listens, several changes in one."""
        ...
