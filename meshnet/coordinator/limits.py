"""Pure. What may happen only so often: guesses at tokens, and a nonce or challenge once.

Both remember a bounded number of things, for a bounded time; time is an argument, and may go back.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from meshnet.errors import RateLimited

GUESSES = 10
GUESS_REFILL_SECONDS = 6.0
SOURCES = 10_000
SWEEP_SECONDS = 10.0


class Guesses:
    """Failed guesses by source: `GUESSES` at once, then one each `GUESS_REFILL_SECONDS`."""

    def __init__(self) -> None:
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, source: str, now: float) -> None:
        """Raise RateLimited while a source has used up its guesses."""
        spent = self._left(source_key(source), now)
        if spent > GUESSES - 1:
            wait = (spent - GUESSES + 1) * GUESS_REFILL_SECONDS
            raise RateLimited(
                f"too many failed attempts from {source}", f"Try again in {wait:.0f} s."
            )

    def failed(self, source: str, now: float) -> None:
        """Count a failed guess."""
        key = source_key(source)
        self._spent[key] = (self._left(key, now) + 1, now)
        self._spent.move_to_end(key)
        while len(self._spent) > SOURCES:
            self._spent.popitem(last=False)

    def __len__(self) -> int:
        return len(self._spent)

    def _left(self, key: str, now: float) -> float:
        spent, since = self._spent.get(key, (0.0, now))
        if now < since:  # The clock was set back: who knows how long that is ago.
            return 0.0
        return max(0.0, spent - (now - since) / GUESS_REFILL_SECONDS)


def source_key(source: str) -> str:
    """Return what counts as one source: an IPv4 address, a /64 of IPv6."""
    try:
        address = ip_address(source.partition("%")[0])
    except ValueError:
        return source
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 64 << 64)) + "/64"


class Once:
    """Remembers keys until they end by themselves; each is good once."""

    def __init__(self) -> None:
        self._ends: dict[bytes, float] = {}
        self._next_sweep = 0.0

    def take(self, key: bytes, ends: float, now: float) -> bool:
        """Say whether `key`, void anyway after `ends`, is here for the first time."""
        if not self._next_sweep - SWEEP_SECONDS <= now < self._next_sweep:
            self._ends = {key: end for key, end in self._ends.items() if end >= now}
            self._next_sweep = now + SWEEP_SECONDS
        if self._ends.get(key, now - 1) >= now:
            return False
        self._ends[key] = ends
        return True

    def __len__(self) -> int:
        return len(self._ends)
