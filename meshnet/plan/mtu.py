"""Pure. Every MTU of the mesh, computed in this one place.

    underlay 1500
      └─ WireGuard costs 60 bytes over IPv4, 80 over IPv6 (outer IP, UDP 8, header and tag 32)
           tunnel 1440 or 1420
             └─ VXLAN costs 50 bytes with an IPv4 VTEP (outer IP 20, UDP 8, VXLAN 8, Ethernet 14)
                  network 1390 or 1370

WireGuard pads what it seals to a multiple of 16, but never beyond the device MTU, so padding costs
nothing here. A network is one L2 segment and nobody fragments inside it: its MTU is the smallest
that any member's tunnel allows, which all members compute alike from the same records.
"""

from __future__ import annotations

from collections.abc import Iterable

WIREGUARD_COST = {4: 60, 6: 80}
VXLAN_COST = 50
TUNNEL_MINIMUM = 1280
"""IPv6 (RFC 8200, section 5) needs 1280 in the tunnel; a smaller underlay cannot carry a mesh."""


def tunnel_mtu(underlay: Iterable[tuple[int, int]]) -> int:
    """Return the tunnel MTU, in bytes, over `underlay` pairs of (device MTU, IP version).

    Every pair is a way a peer may reach us, so the narrowest decides; without any, Ethernet's 1500
    over IPv6 is assumed.
    """
    fits = [mtu - WIREGUARD_COST[version] for mtu, version in underlay]
    return max(TUNNEL_MINIMUM, min(fits, default=1500 - WIREGUARD_COST[6]))


def network_mtu(tunnels: Iterable[int]) -> int:
    """Return a network's MTU, in bytes, given the tunnel MTU of every member."""
    return min(tunnels) - VXLAN_COST
