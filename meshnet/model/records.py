"""Pure. Records: what a node says about itself, signed with its identity key.

Each class is the body of one kind of record. A record whose body is absent is a deletion. Whether
a record holds (its writer is a member and owns what it speaks of) is decided in `view`.

A `Floor` is the one body that anybody may sign, issuers too: it speaks of its writer's own facts.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from meshnet.errors import BadInput
from meshnet.model.addresses import Address, Endpoint, check_mac
from meshnet.model.keys import PublicKey
from meshnet.model.names import check_name

Protocol = Literal["tcp", "udp"]
Provenance = Literal["local", "observed", "stun", "mapped", "static"]


class Candidate(msgspec.Struct, frozen=True, order=True):
    """An endpoint a node may be reached at, and how it came to know it.

    `mtu` is the largest packet, in bytes, that fits into a tunnel to there; 0 is not said.
    """

    endpoint: Endpoint
    provenance: Provenance = "local"
    mtu: int = 0

    def __post_init__(self) -> None:
        if self.mtu and not 576 <= self.mtu <= 65535:
            raise BadInput(f"tunnel MTU {self.mtu} of a candidate is not between 576 and 65535")


class NodeRecord(msgspec.Struct, frozen=True):
    """How to reach the node: WireGuard keys (the first is the one in use), candidates, tunnel MTU.

    `mtu` is the largest packet, in bytes, that fits into this node's tunnels.
    """

    KIND: ClassVar[str] = "node"
    wireguard: tuple[PublicKey, ...]
    candidates: tuple[Candidate, ...] = ()
    mtu: int = 1420
    relay: bool = False
    version: str = ""

    def __post_init__(self) -> None:
        if not self.wireguard:
            raise BadInput("a node record needs a WireGuard key")
        if not 1280 <= self.mtu <= 65535:
            raise BadInput(f"tunnel MTU {self.mtu} is not between 1280 and 65535")

    @property
    def slot(self) -> str:
        return "node"


class Attachment(msgspec.Struct, frozen=True):
    """A container's port on a network. `name` is unique on the node within the network."""

    KIND: ClassVar[str] = "attachment"
    network: str
    name: str
    addresses: tuple[Address, ...]
    mac: str
    host: bool = False

    def __post_init__(self) -> None:
        check_name(self.network, "network")
        check_name(self.name, "attachment")
        if check_mac(self.mac) != self.mac:
            raise BadInput(f"MAC {self.mac} is not in lower case with colons")
        if not self.addresses:
            raise BadInput(f"attachment {self.name} has no address")

    @property
    def slot(self) -> str:
        return f"{self.network} {self.name}"


class ServicePort(msgspec.Struct, frozen=True, order=True):
    """A port an instance listens on. `name` is the service type for SRV, such as `http`."""

    number: int
    protocol: Protocol = "tcp"
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.number < 65536:
            raise BadInput(f"port {self.number} is not between 1 and 65535")
        if self.name:
            check_name(self.name, "port")

    def __str__(self) -> str:
        return f"{self.number}/{self.protocol}"


class Instance(msgspec.Struct, frozen=True):
    """One instance of a service, behind an attachment of the same node."""

    KIND: ClassVar[str] = "instance"
    network: str
    service: str
    attachment: str
    ports: tuple[ServicePort, ...] = ()
    healthy: bool = True
    weight: int = 1
    metadata: dict[str, str] = {}

    def __post_init__(self) -> None:
        check_name(self.network, "network")
        check_name(self.service, "service")
        check_name(self.attachment, "attachment")
        if not 0 <= self.weight < 65536:
            raise BadInput(f"weight {self.weight} is not between 0 and 65535")

    @property
    def slot(self) -> str:
        return f"{self.network} {self.service} {self.attachment}"


class Floor(msgspec.Struct, frozen=True):
    """Whatever its writer said with a sequence lower than `below` is void, deletions included."""

    KIND: ClassVar[str] = "floor"
    below: int

    def __post_init__(self) -> None:
        if self.below < 1:
            raise BadInput(f"a floor at {self.below} voids nothing")

    @property
    def slot(self) -> str:
        return self.KIND


Record = NodeRecord | Attachment | Instance | Floor
