"""Pure. Statements: what the mesh says, signed with the issuing key.

Each class is the body of one kind of statement; `KIND` is its name on the wire and `slot` the key
under which a newer statement replaces an older one. Times are whole seconds since the epoch.
Validation that needs only the value itself happens in `__post_init__`; whether a statement holds
(issuer certified, not expired) is decided in `view`.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import ClassVar

import msgspec

from meshnet.errors import BadInput
from meshnet.model.addresses import Prefix
from meshnet.model.keys import IdentityKey, PublicKey
from meshnet.model.names import check_name

VNI_MAX = (1 << 24) - 1


class Issuer(msgspec.Struct, frozen=True):
    """By the root key: `key` may sign statements until `not_after`."""

    KIND: ClassVar[str] = "issuer"
    key: IdentityKey
    not_after: int

    @property
    def slot(self) -> str:
        return str(self.key)


class Mesh(msgspec.Struct, frozen=True):
    """The mesh's own parameters: the prefixes its nodes' addresses come from."""

    KIND: ClassVar[str] = "mesh"
    prefix4: IPv4Network
    prefix6: IPv6Network

    @property
    def slot(self) -> str:
        return "mesh"


class Membership(msgspec.Struct, frozen=True):
    """A node's certificate: this identity key is this node, with these mesh addresses.

    `wireguard` are the keys whose possession the node proved when the certificate was made.
    """

    KIND: ClassVar[str] = "membership"
    node: str
    name: str
    identity: IdentityKey
    address4: IPv4Address
    address6: IPv6Address
    not_after: int
    issued: int = 0
    wireguard: tuple[PublicKey, ...] = ()
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name, "node")
        if self.node != self.identity.node_id:
            raise BadInput(f"node id {self.node!r} is not that of its identity key")

    @property
    def slot(self) -> str:
        return self.node


class Network(msgspec.Struct, frozen=True):
    """One L2 segment: its VNI and prefixes (at most one of each family).

    One that is `transient` ends when the last node that had leases of it has given them back.
    """

    KIND: ClassVar[str] = "network"
    name: str
    vni: int
    prefixes: tuple[Prefix, ...]
    flood: bool = False
    transient: bool = False

    def __post_init__(self) -> None:
        check_name(self.name, "network")
        if not 0 < self.vni <= VNI_MAX:
            raise BadInput(f"VNI {self.vni} of network {self.name} is not in 1..{VNI_MAX}")
        families = [prefix.version for prefix in self.prefixes]
        if not families or len(families) != len(set(families)):
            raise BadInput(f"network {self.name} needs one prefix of each family at most")

    @property
    def slot(self) -> str:
        return self.name


class Lease(msgspec.Struct, frozen=True):
    """A block of a network's prefix, given to one node until `not_after`."""

    KIND: ClassVar[str] = "lease"
    network: str
    node: str
    prefix: Prefix
    not_after: int
    issued: int = 0

    @property
    def slot(self) -> str:
        return f"{self.network} {self.prefix}"


class StaticRecord(msgspec.Struct, frozen=True):
    """A DNS RRset that no container stands behind. `name` is relative to the zone; `*` may lead it.

    `type` is A, AAAA, CNAME, TXT or SRV; `values` are in presentation form (RFC 1035, section 5).
    """

    KIND: ClassVar[str] = "static"
    name: str
    type: str
    values: tuple[str, ...]
    ttl: int = 60

    @property
    def slot(self) -> str:
        return f"{self.name} {self.type}"


class Revocation(msgspec.Struct, frozen=True):
    """This identity is no member any more, whatever certificate it shows."""

    KIND: ClassVar[str] = "revocation"
    identity: IdentityKey

    @property
    def slot(self) -> str:
        return str(self.identity)


class Coordinators(msgspec.Struct, frozen=True):
    """Where the coordinators are, and the pins of their TLS keys (SHA-256 of the SPKI, hex)."""

    KIND: ClassVar[str] = "coordinators"
    urls: tuple[str, ...]
    pins: tuple[str, ...]

    @property
    def slot(self) -> str:
        return "coordinators"


Statement = Issuer | Mesh | Membership | Network | Lease | StaticRecord | Revocation | Coordinators
