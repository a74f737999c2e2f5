"""Pure. Operations: the steps between two host states, each of which explains itself.

What `meshnet plan` prints, what is logged and what the driver applies is the same object. Every
operation says what must be there afterwards, so applying it again changes nothing, and removing
what is gone already is no error. Batches (peers, FDB, neighbours) travel as one operation because
the driver sends them in one go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from meshnet.model.addresses import Address, Endpoint, Interface, Prefix
from meshnet.model.keys import PresharedKey, PrivateKey, PublicKey
from meshnet.plan.state import Guard, Port, Segment


@dataclass(frozen=True, slots=True)
class PeerChange:
    """What to do with one peer. None means leave alone; `preshared_key` of zeros removes it.

    With `remove` the other fields mean nothing. Allowed IPs are added and taken away one by one, a
    live peer's list is never replaced as a whole.
    """

    key: PublicKey
    add: frozenset[Prefix] = frozenset()
    drop: frozenset[Prefix] = frozenset()
    endpoint: Endpoint | None = None
    keepalive: int | None = None
    preshared_key: PresharedKey | None = None
    remove: bool = False

    def __str__(self) -> str:
        if self.remove:
            return f"-{self.key}"
        words = [f"+{prefix}" for prefix in sorted(self.add, key=str)]
        words += [f"-{prefix}" for prefix in sorted(self.drop, key=str)]
        words += [f"endpoint {self.endpoint}"] if self.endpoint else []
        words += [f"keepalive {self.keepalive}"] if self.keepalive is not None else []
        words += ["preshared key"] if self.preshared_key else []
        return f"{self.key} {' '.join(words)}".rstrip()


@dataclass(frozen=True, slots=True)
class CreateTunnel:
    name: str
    mtu: int

    def __str__(self) -> str:
        return f"create WireGuard device {self.name}, mtu {self.mtu}"


@dataclass(frozen=True, slots=True)
class ConfigureTunnel:
    """Set the device's key, port and fwmark."""

    name: str
    private_key: PrivateKey = field(repr=False)
    listen_port: int
    fwmark: int

    def __str__(self) -> str:
        return f"set {self.name} key, port {self.listen_port}, fwmark {self.fwmark}"


@dataclass(frozen=True, slots=True)
class RemoveTunnel:
    name: str

    def __str__(self) -> str:
        return f"remove WireGuard device {self.name}"


@dataclass(frozen=True, slots=True)
class SetTunnelLink:
    """Set the device's MTU and bring it up."""

    name: str
    mtu: int

    def __str__(self) -> str:
        return f"set {self.name} up, mtu {self.mtu}"


@dataclass(frozen=True, slots=True)
class ChangePeers:
    name: str
    changes: tuple[PeerChange, ...]

    def __str__(self) -> str:
        return f"change {len(self.changes)} peers of {self.name}: " + "; ".join(
            str(change) for change in self.changes[:20]
        )


@dataclass(frozen=True, slots=True)
class AddAddress:
    name: str
    address: Interface

    def __str__(self) -> str:
        return f"add address {self.address} to {self.name}"


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    name: str
    address: Interface

    def __str__(self) -> str:
        return f"remove address {self.address} from {self.name}"


@dataclass(frozen=True, slots=True)
class AddRoute:
    """Add a route of ours, or give it another MTU; 0 is the device's."""

    name: str
    prefix: Prefix
    mtu: int = 0

    def __str__(self) -> str:
        limit = f", mtu {self.mtu}" if self.mtu else ""
        return f"add route {self.prefix} to {self.name}{limit}"


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    name: str
    prefix: Prefix

    def __str__(self) -> str:
        return f"remove route {self.prefix} from {self.name}"


@dataclass(frozen=True, slots=True)
class SetGuard:
    guard: Guard

    def __str__(self) -> str:
        return f"set nft guard of {self.guard.tunnel}"


@dataclass(frozen=True, slots=True)
class RemoveGuard:
    def __str__(self) -> str:
        return "remove nft guard"


@dataclass(frozen=True, slots=True)
class BuildSegment:
    """Make a network's namespace, bridge and VXLAN device, or mend what differs from `segment`.

    Entries and ports are none of its business; a VXLAN device that has to be replaced loses its
    entries, and the next read shows it.
    """

    network: str
    segment: Segment = field(repr=False)

    def __str__(self) -> str:
        return f"build network {self.network}: VNI {self.segment.vni}, mtu {self.segment.mtu}"


@dataclass(frozen=True, slots=True)
class RemoveSegment:
    network: str

    def __str__(self) -> str:
        return f"remove network {self.network}"


@dataclass(frozen=True, slots=True)
class SetFdb:
    """MAC → VTEP, added or replaced."""

    network: str
    entries: Mapping[str, IPv4Address]

    def __str__(self) -> str:
        return f"set {len(self.entries)} FDB entries of {self.network}: {_some(self.entries)}"


@dataclass(frozen=True, slots=True)
class RemoveFdb:
    network: str
    entries: Mapping[str, IPv4Address]

    def __str__(self) -> str:
        return f"remove {len(self.entries)} FDB entries of {self.network}: {_some(self.entries)}"


@dataclass(frozen=True, slots=True)
class SetNeighbours:
    """Address → MAC, added or replaced."""

    network: str
    entries: Mapping[Address, str]

    def __str__(self) -> str:
        return f"set {len(self.entries)} neighbours of {self.network}: {_some(self.entries)}"


@dataclass(frozen=True, slots=True)
class RemoveNeighbours:
    network: str
    entries: Mapping[Address, str]

    def __str__(self) -> str:
        return f"remove {len(self.entries)} neighbours of {self.network}: {_some(self.entries)}"


@dataclass(frozen=True, slots=True)
class SetFlood:
    """The VTEPs that get a copy of broadcast and unknown frames: exactly these."""

    network: str
    vteps: frozenset[IPv4Address]

    def __str__(self) -> str:
        return f"flood {self.network} to {len(self.vteps)} VTEPs"


@dataclass(frozen=True, slots=True)
class SetPort:
    """Make a port, or mend what differs: both ends of the veth, addresses and routes inside."""

    network: str
    name: str
    port: Port

    def __str__(self) -> str:
        inside = self.port.netns or "the host"
        addresses = " ".join(sorted(str(address) for address in self.port.addresses))
        return (
            f"set port {self.name} of {self.network}: {self.port.interface} in {inside} {addresses}"
        )


@dataclass(frozen=True, slots=True)
class RemovePorts:
    """Remove both ends of each: the kernel takes about as long for all as for one."""

    network: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        some = " ".join(self.names[:10]) + (" …" if len(self.names) > 10 else "")
        return f"remove {len(self.names)} ports of {self.network}: {some}"


Operation = (
    CreateTunnel
    | ConfigureTunnel
    | RemoveTunnel
    | SetTunnelLink
    | ChangePeers
    | AddAddress
    | RemoveAddress
    | AddRoute
    | RemoveRoute
    | SetGuard
    | RemoveGuard
    | BuildSegment
    | RemoveSegment
    | SetFdb
    | RemoveFdb
    | SetNeighbours
    | RemoveNeighbours
    | SetFlood
    | SetPort
    | RemovePorts
)


def _some(
    entries: Mapping[object, object] | Mapping[str, IPv4Address] | Mapping[Address, str],
) -> str:
    pairs = sorted(f"{key}→{value}" for key, value in entries.items())
    return " ".join(pairs[:10]) + (" …" if len(pairs) > 10 else "")
