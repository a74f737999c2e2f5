"""Shell. Waiting for an event or a time, whichever comes first; and how long to rest after work.

Not by asyncio.wait_for: before Python 3.12 it can swallow a cancellation that arrives together with
the event, and a task that missed its cancellation never ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

FEW = 5
LONGEST_REST = 30.0
RESTS = 10.0
"""How many times as long to rest as timers are late."""


async def happened(event: asyncio.Event, limit: float) -> bool:
    """Wait for an event for `limit` seconds at most; say whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, limit)):
            await event.wait()
    return event.is_set()


class Lateness:
    """By how many seconds timers come late: the median of the last few, for one long standstill
    (a stopped process, a suspended machine) says nothing of how crowded a core is."""

    def __init__(self) -> None:
        self._last: deque[float] = deque([0.0], maxlen=FEW)

    def add(self, seconds: float) -> None:
        self._last.append(seconds)

    @property
    def typical(self) -> float:
        return sorted(self._last)[len(self._last) // 2]


def rest(took: float, late: float) -> float:
    """Return the seconds to rest after a round that took so many.

    `late` is by how many seconds our timers come late, for as long as that others have the core. A
    rest is as long as the round, and longer by far on a crowded core: a burst costs few rounds
    there, and a change that comes alone waits for nothing. Many agents on one core would have no
    time for anything else. (Processor time would tell as well, but there are kernels that count it
    in hundredths of a second.)
    """
    return min(took + RESTS * late, LONGEST_REST)
