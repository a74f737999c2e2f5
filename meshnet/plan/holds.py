"""Pure. Networks that are to be on this host before anything is attached to them.

Context: the first attachment of a network on a host has to wait for its namespace, bridge and VXLAN
device, some tenths of a second on a busy machine. Choice: an engine that has a network says so, as
Docker has its own bridges when there is no container yet. It tells all it has, again and again, so
nothing is kept on disk, a network that it has removed goes at the next telling, and all of them go
a while after the last. Price: such a network costs its part of an audit while nobody uses it.
"""

from __future__ import annotations

from collections.abc import Iterable

LASTING = 60.0
"""Seconds for which a telling counts."""


class Holds:
    """What has been told, by whom."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, frozenset[str]]] = {}

    def tell(self, holder: str, networks: Iterable[str], now: float) -> bool:
        """Take in all that a holder has; say whether that changes anything."""
        before = self.networks(now)
        self._told[holder] = now + LASTING, frozenset(networks)
        return self.networks(now) != before

    def networks(self, now: float) -> frozenset[str]:
        """Return the networks that somebody has now."""
        held = (networks for until, networks in self._told.values() if until > now)
        return frozenset().union(*held)
