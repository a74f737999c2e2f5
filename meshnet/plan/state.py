"""Pure. The state of one host, as far as it is ours: what we want and what the kernel has.

Desired and actual state are the same values, so that they can be compared field by field:

    Host ── Tunnel (the WireGuard device) ── Peer …
         ├─ Guard  (our nft table: nothing of ours leaves or enters outside the tunnel)
         └─ Segment … (a network's namespace: bridge, VXLAN device, FDB, neighbours) ── Port …

Addresses of the host on a network are a Port whose far end is in the host's own namespace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from meshnet.model.addresses import Address, Endpoint, Interface, Prefix
from meshnet.model.keys import PresharedKey, PrivateKey, PublicKey

VXLAN_PORT = 14789
"""UDP port of our VXLAN, not the usual 4789, so that foreign VXLAN devices keep theirs."""

ROUTE_PROTOCOL = 109
"""Our mark on routes (rtm_protocol): what has another number is not ours."""

ALIAS = "meshnet"
"""Our mark on links (ifalias)."""

NETNS_PREFIX = "meshnet-"
"""Our mark on network namespaces: a network's is named NETNS_PREFIX + its name."""

NFT_TABLE = "meshnet"
"""Our nft table: of family inet on the host, of family bridge in a network's namespace."""

BRIDGE = "br0"
VXLAN = "vx0"
"""Names of the two devices in every network's namespace."""

HOST = ""
"""The `netns` of a port whose far end is in the host's own namespace."""

HANDED = "*"
"""The `netns` of a port whose far end is made in the host's namespace for an engine to take away:
from then on its place, its name and its addresses are the engine's, and only our end is ours."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One WireGuard peer. `endpoint` None in a desired state means: leave it as it is."""

    allowed_ips: frozenset[Prefix]
    endpoint: Endpoint | None = None
    keepalive: int = 0
    preshared_key: PresharedKey | None = None


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What only the kernel knows. `last_handshake` is seconds since the epoch, 0 never."""

    last_handshake: float = 0.0
    received: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The WireGuard device in the host's namespace, its addresses and the routes into it.

    `addresses` and `routes` are all those on the device (routes: those of our protocol number, with
    their MTU, 0 where it is the device's).
    `listen_port` 0 in an actual state means the device is down. `status` is empty when desired.
    """

    name: str
    private_key: PrivateKey | None
    listen_port: int
    mtu: int
    addresses: frozenset[Interface] = frozenset()
    routes: Mapping[Prefix, int] = field(default_factory=dict)
    peers: Mapping[PublicKey, Peer] = field(default_factory=dict)
    fwmark: int = 0
    up: bool = True
    status: Mapping[PublicKey, PeerStatus] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Port:
    """One attachment: a veth pair from the network's bridge into a namespace.

    `netns` is a path such as /proc/17/ns/net, or HOST for the host's own; `inode` is that of the
    namespace (nsfs), so that a path that now leads elsewhere is noticed; 0 for HOST.
    `interface` is the name inside. `routes` go through `gateway` of their family. `sources` are the
    addresses that frames from the port may come from: none, and nothing gets out of it.
    """

    netns: str
    inode: int
    interface: str
    mac: str
    mtu: int
    addresses: frozenset[Interface]
    routes: frozenset[Prefix] = frozenset()
    gateways: frozenset[Address] = frozenset()
    sources: frozenset[Address] = frozenset()


def handed_interface(veth: str) -> str:
    """Return the name a far end has until an engine takes it, from that of the bridge's end."""
    return "m" + veth[1:]


@dataclass(frozen=True, slots=True)
class Segment:
    """A network on this host, in a namespace of its own.

    `fdb`: MAC of a remote attachment → VTEP (mesh address of its node). `neighbours`: address of a
    remote attachment → its MAC; the VXLAN device answers ARP and ND from them. `ports`: name of
    the veth end on the bridge → port. `gateways` are the bridge's addresses, `gateway_mac` its MAC.
    """

    vni: int
    mtu: int
    local: IPv4Address
    vtep_mac: str
    gateway_mac: str
    gateways: frozenset[Interface]
    fdb: Mapping[str, IPv4Address] = field(default_factory=dict)
    neighbours: Mapping[Address, str] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    flood: frozenset[IPv4Address] = frozenset()


@dataclass(frozen=True, slots=True)
class Guard:
    """Our nft table, as what it must hold: the tunnel's name, our prefixes, our UDP ports.

    `networks` are the prefixes of those networks that the host itself is attached to. What
    `sealed_port` sends and receives is sealed already: WireGuard's own UDP port, 0 for none.
    """

    tunnel: str
    mesh_prefixes: frozenset[Prefix]
    overlay_ports: frozenset[int]
    networks: frozenset[Prefix] = frozenset()
    sealed_port: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """All that is ours on a host. Segments by network name."""

    tunnel: Tunnel | None = None
    guard: Guard | None = None
    segments: Mapping[str, Segment] = field(default_factory=dict)
