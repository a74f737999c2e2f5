"""Pure. Every MTU of the mesh, computed in this one place.

    underlay 1500
      └─ WireGuard costs 60 bytes over IPv4, 80 over IPv6 (outer IP, UDP 8, header and tag 32)
           tunnel 1440 or 1420                              per peer: a route's MTU
             └─ VXLAN costs 50 bytes with an IPv4 VTEP (outer IP 20, UDP 8, VXLAN 8, Ethernet 14)
                  network 1390 or 1370                      one value for all of the mesh

Per peer: what fits is decided by the link of ours that leads to the endpoint in use, by what the
peer says of its own link there, and by what `paths.sizes` has seen pass. The device gets the most
that any peer takes; a peer that takes less gets routes of its own with its MTU. WireGuard pads what
it seals to 16 bytes, the kernel's to no more than the route's MTU, wireguard-go's to no more than
the device's; so a route's MTU is a multiple of 16.

Per network: containers have one interface and so one MTU. Context: it is one L2 segment, and a
frame larger than the receiver's MTU is dropped without a word; but VXLAN tells a sender by ICMP
when a packet is too big for the route to the VTEP (Linux 5.9 and later), and cuts in pieces what
may be cut. Choice: the same MTU on all nodes, the most that any two of them can exchange, so
nobody's interface drops what another's may send; between two that can exchange less, path MTU
discovery works without leaving the sender's host. Price: the first packet that is too big is lost
to the answer, once in ten minutes for a destination.

IPv6 (RFC 8200, section 5) needs 1280 bytes, and the kernel takes IPv6 off a link that has fewer. So
no interface has fewer. Where the underlay carries less than that needs, 1410 bytes over IPv6 and
1390 over IPv4, a packet of IPv4 gets its ICMP error, and one of IPv6 travels in two pieces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from meshnet.model.addresses import Endpoint, Interface
from meshnet.model.records import NodeRecord

WIREGUARD_COST = {4: 60, 6: 80}
VXLAN_COST = 50
NETWORK_MINIMUM = 1280
TUNNEL_MINIMUM = NETWORK_MINIMUM + VXLAN_COST
PADDING = 16
SMALLEST = 576
"""What every host must take (RFC 791, section 3.1)."""


@dataclass(frozen=True, slots=True)
class Way:
    """An address of this host, and the largest packet, in bytes, in a tunnel over its link."""

    address: Interface
    mtu: int


def ways(underlay: Iterable[tuple[str, int, Interface]]) -> tuple[Way, ...]:
    """Return the ways to this host from (link, its MTU, address); the costlier family decides."""
    items = list(underlay)
    cost: defaultdict[str, int] = defaultdict(int)
    for link, _, address in items:
        cost[link] = max(cost[link], WIREGUARD_COST[address.version])
    return tuple(Way(address, max(SMALLEST, mtu - cost[link])) for link, mtu, address in items)


def tunnel_mtu(here: Iterable[Way]) -> int:
    """Return what fits whichever way a peer takes; without any, Ethernet's over IPv6."""
    return max(TUNNEL_MINIMUM, min((way.mtu for way in here), default=1500 - WIREGUARD_COST[6]))


def peer_mtu(endpoint: Endpoint | None, here: Sequence[Way], record: NodeRecord) -> int:
    """Return the largest packet, in bytes, that both ends' links carry by this endpoint."""
    return min(_near(endpoint, here), _far(endpoint, record))


def _near(endpoint: Endpoint | None, here: Sequence[Way]) -> int:
    if endpoint is not None:
        address = endpoint.address
        family = [way for way in here if way.address.version == address.version]
        on_link = [way for way in family if address in way.address.network]
        here = on_link or family or here
    return min((way.mtu for way in here), default=tunnel_mtu(()))


def _far(endpoint: Endpoint | None, record: NodeRecord) -> int:
    said = [item for item in record.candidates if item.mtu]
    for item in said:
        if endpoint is not None and item.endpoint.address == endpoint.address:
            return item.mtu
    return min((item.mtu for item in said), default=record.mtu)


def best_mtu(record: NodeRecord) -> int:
    """Return the most that any way to a node carries."""
    said = [item.mtu for item in record.candidates if item.mtu]
    return max(said) if said else record.mtu


def network_mtu(best: Iterable[int]) -> int:
    """Return the MTU of networks, in bytes, from the best of every node: what two can exchange."""
    most = sorted(best)[-2:]
    return max(NETWORK_MINIMUM, most[0] - VXLAN_COST)


def limits(peers: Mapping[str, int]) -> dict[str, int]:
    """Return what may be sent to each peer at most, given what its path and ours carry."""
    device = device_mtu(peers.values(), TUNNEL_MINIMUM)
    return {node: mtu if mtu >= device else mtu - mtu % PADDING for node, mtu in peers.items()}


def device_mtu(peers: Iterable[int], own: int) -> int:
    """Return the MTU of the WireGuard device, in bytes: what the widest peer takes."""
    return max(TUNNEL_MINIMUM, max(peers, default=own))


def route_mtu(peer: int, device: int, version: int) -> int:
    """Return the MTU of a route to a peer's address of a family; 0 where the device's will do."""
    fits = max(peer, NETWORK_MINIMUM) if version == 6 else peer
    return fits if fits < device else 0
