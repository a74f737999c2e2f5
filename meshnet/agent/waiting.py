"""Shell. Waiting for an event or a time, whichever comes first; and how long to rest after work.

Not by asyncio.wait_for: before Python 3.12 it can swallow a cancellation that arrives together with
the event, and a task that missed its cancellation never ends.
"""

from __future__ import annotations

import asyncio
import contextlib

LONGEST_REST = 30.0
MOST_RESTS = 4.0


async def happened(event: asyncio.Event, limit: float) -> bool:
    """Wait for an event for `limit` seconds at most; say whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, limit)):
            await event.wait()
    return event.is_set()


def rest(spent: float, crowding: float) -> float:
    """Return the seconds to rest after a round that has cost so many of processor time.

    `crowding` is how many times as long it took, for others had the core. A rest is as long as the
    round was, and up to MOST_RESTS times as long when they had it for most of the time: on a slow
    or busy machine a burst costs few rounds, and a change that comes alone waits for nothing. Many
    agents on one core would have no time for anything else.
    """
    crowding = max(1.0, crowding)
    return min(spent * crowding * min(crowding, MOST_RESTS), LONGEST_REST)
