"""Pure. Whether this node is behind a NAT: from where others see it come.

    peers          tell with each answer to a probe which endpoint their kernel has of us; it is
                   authenticated, for WireGuard has shaken hands from there
    a coordinator  tells in its stream which address the connection comes from

If what somebody sees is none of our addresses, something in between rewrites them, and it will
forget us when we are silent: then, and only then, WireGuard is to send keepalives. The peers' word
counts before the coordinator's, which may have a proxy in front of it, or stand beside us behind
the same NAT. An address that we had until a moment ago is ours still, since a peer may have looked
before we moved.
"""

from __future__ import annotations

from collections.abc import Collection, Container
from ipaddress import IPv6Address

from meshnet.model.addresses import Address

FORMER_SECONDS = 30.0


class Sightings:
    """What others said. `own` are the addresses of this host."""

    def __init__(self, own: Collection[Address] = ()) -> None:
        self._own = frozenset(own)
        self._former: frozenset[Address] = frozenset()
        self._moved_at = -FORMER_SECONDS
        self._by_peers: dict[str, bool] = {}
        self._by_coordinator = False

    def moved(self, own: Collection[Address], now: float) -> None:
        """The host's addresses are these now."""
        if self._own != frozenset(own):
            self._former = self._own | (self._former if self._is_recent(now) else frozenset())
            self._own, self._moved_at = frozenset(own), now

    def seen_by_peer(self, peer: str, address: Address, now: float) -> None:
        """A peer's kernel has us at this address."""
        self._by_peers[peer] = self._is_foreign(address, now)

    def seen_by_coordinator(self, address: Address, now: float) -> None:
        """Our connection comes from this address."""
        self._by_coordinator = self._is_foreign(address, now)

    def keep(self, peers: Container[str]) -> None:
        """Forget what was said by others than these."""
        self._by_peers = {peer: word for peer, word in self._by_peers.items() if peer in peers}

    @property
    def behind_nat(self) -> bool:
        return any(self._by_peers.values()) if self._by_peers else self._by_coordinator

    def _is_foreign(self, address: Address, now: float) -> bool:
        """No NAT stands between us and one on the same machine or the same link."""
        address = plain(address)
        known = self._own | (self._former if self._is_recent(now) else frozenset())
        return not (address in known or address.is_loopback or address.is_link_local)

    def _is_recent(self, now: float) -> bool:
        return now - self._moved_at < FORMER_SECONDS


def plain(address: Address) -> Address:
    """Return an IPv4 address that came as an IPv6 one (RFC 4291, section 2.5.5.2) as itself."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
