"""Shell. Waiting for an event or a time, whichever comes first.

Not by asyncio.wait_for: before Python 3.12 it can swallow a cancellation that arrives together with
the event, and a task that missed its cancellation never ends.
"""

from __future__ import annotations

import asyncio
import contextlib


async def happened(event: asyncio.Event, limit: float) -> bool:
    """Wait for an event for `limit` seconds at most; say whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, limit)):
            await event.wait()
    return event.is_set()
