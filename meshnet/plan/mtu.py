"""Pure. Every MTU of the mesh, computed in this one place.

    underlay 1500
      └─ WireGuard costs 60 bytes over IPv4, 80 over IPv6 (outer IP, UDP 8, header and tag 32)
           tunnel 1440 or 1420
             └─ VXLAN costs 50 bytes with an IPv4 VTEP (outer IP 20, UDP 8, VXLAN 8, Ethernet 14)
                  network 1390 or 1370

A network is one L2 segment and nobody fragments inside it: its MTU is the smallest that any
member's tunnel allows, which all members compute alike from the same records.

WireGuard pads what it seals to a multiple of 16, but never beyond the MTU of its device. So the
device gets what the whole mesh allows, even where this node's own underlay carries more: padding
costs nothing then, and a full-size packet from host to host fits the narrower end.

IPv6 (RFC 8200, section 5) needs 1280 bytes, and the kernel takes IPv6 off a link that has fewer. So
no network has fewer, whatever the underlay. Context: 1280 in a network are 1410 bytes on an IPv6
underlay, which is more than some carry. Choice: the host then fragments what WireGuard has sealed.
Price: two packets for one, where the underlay has fewer than 1410 (IPv6) or 1390 bytes (IPv4).
"""

from __future__ import annotations

from collections.abc import Iterable

WIREGUARD_COST = {4: 60, 6: 80}
VXLAN_COST = 50
NETWORK_MINIMUM = 1280
TUNNEL_MINIMUM = NETWORK_MINIMUM + VXLAN_COST


def tunnel_mtu(underlay: Iterable[tuple[int, int]]) -> int:
    """Return the tunnel MTU, in bytes, that `underlay` pairs of (device MTU, IP version) allow.

    Every pair is a way a peer may reach us, so the narrowest decides; without any, Ethernet's 1500
    over IPv6 is assumed.
    """
    fits = [mtu - WIREGUARD_COST[version] for mtu, version in underlay]
    return max(TUNNEL_MINIMUM, min(fits, default=1500 - WIREGUARD_COST[6]))


def network_mtu(tunnels: Iterable[int]) -> int:
    """Return a network's MTU, in bytes, given the tunnel MTU of every member."""
    return max(NETWORK_MINIMUM, min(tunnels) - VXLAN_COST)


def device_mtu(tunnels: Iterable[int]) -> int:
    """Return the MTU of the WireGuard device, in bytes, given the tunnel MTU of every node."""
    return network_mtu(tunnels) + VXLAN_COST
