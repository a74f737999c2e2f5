"""Pure. Addresses that follow from keys and numbers, and endpoints.

`Mac`, VTEP and mesh addresses are derived wherever they can be, so that owning one thing means
owning the other: whoever holds the lease of an address holds its MAC too.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABCMeta
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
)
from typing import TYPE_CHECKING

from meshnet.errors import BadInput

if TYPE_CHECKING:
    Address = IPv4Address | IPv6Address
    Prefix = IPv4Network | IPv6Network
else:
    # One class for both families, since the codec takes no union of foreign types.
    class Address(metaclass=ABCMeta):
        """An IPv4 or IPv6 address."""

    class Prefix(metaclass=ABCMeta):
        """An IPv4 or IPv6 prefix."""

    for _family in (IPv4Address, IPv6Address):
        Address.register(_family)
    for _family in (IPv4Network, IPv6Network):
        Prefix.register(_family)

Interface = IPv4Interface | IPv6Interface

RESOLVER = IPv4Address("169.254.214.53")
"""Where a container asks for names, the same on every network and every host, and on no wire: a
container engine takes one list of servers for all its containers."""

MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")


class Endpoint:
    """Where a peer is reached on the underlay: an address and a UDP port."""

    __slots__ = ("address", "port")
    address: Address
    port: int

    def __init__(self, address: Address, port: int) -> None:
        if not 0 < port < 65536:
            raise BadInput(f"endpoint port {port} is not between 1 and 65535")
        object.__setattr__(self, "address", address)
        object.__setattr__(self, "port", port)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Endpoint is frozen")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Endpoint) and self._order == other._order

    def __lt__(self, other: Endpoint) -> bool:
        return self._order < other._order

    def __hash__(self) -> int:
        return hash(self._order)

    def __repr__(self) -> str:
        return f"Endpoint({self})"

    @property
    def _order(self) -> tuple[int, bytes, int]:
        return self.address.version, self.address.packed, self.port

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `192.0.2.1:51820` or `[2001:db8::1]:51820`; raise BadInput otherwise."""
        host, _, port = text.rpartition(":")
        try:
            return cls(ip_address(host.removeprefix("[").removesuffix("]")), int(port))
        except ValueError as error:
            raise BadInput(f"endpoint {text[:80]!r} is not ADDRESS:PORT") from error

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


def check_mac(text: str) -> str:
    """Return a unicast MAC in lower case with colons, else raise BadInput."""
    mac = text.lower().replace("-", ":")
    if not MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise BadInput(f"{text[:40]!r} is not a unicast MAC address")
    return mac


def attachment_mac(vni: int, address: Address) -> str:
    """Return the MAC that belongs to `address` in network `vni`: unicast, locally administered."""
    digest = hashlib.sha256(b"meshnet attachment mac\0%d\0" % vni + address.packed).digest()
    return _mac(0x0A, digest)


def gateway_mac(vni: int) -> str:
    """Return the MAC of a network's gateway: the same on every node, never announced."""
    return _mac(0x0E, hashlib.sha256(b"meshnet gateway mac\0%d" % vni).digest())


def vtep_mac(vni: int, node_id: str) -> str:
    """Return the MAC of a node's VXLAN device in network `vni`."""
    return _mac(0x02, hashlib.sha256(f"meshnet vtep mac\0{vni}\0{node_id}".encode()).digest())


def mesh_prefix6(root_key: bytes) -> IPv6Network:
    """Return the ULA /48 of the mesh (RFC 4193, section 3.2.2), from the root key."""
    global_id = hashlib.sha256(b"meshnet ula\0" + root_key).digest()[:5]
    return IPv6Network((b"\xfd" + global_id + bytes(10), 48))


def node_prefix6(prefix: IPv6Network) -> IPv6Network:
    """Return subnet 0 of the mesh's /48: where nodes have their addresses."""
    return IPv6Network((prefix.network_address, 64))


def node_address6(prefix: IPv6Network, node_id: str) -> IPv6Address:
    """Return a mesh address in subnet 0 of the /48; the interface id comes from the node id."""
    suffix = hashlib.sha256(b"meshnet node address\0" + node_id.encode()).digest()[:8]
    return IPv6Address(int(prefix.network_address) | int.from_bytes(suffix, "big"))


def network_prefix6(prefix: IPv6Network, vni: int) -> IPv6Network:
    """Return the /64 of network `vni` inside the mesh's /48: subnet 1 to 65535, by the VNI."""
    subnet = vni % 65535 + 1
    return IPv6Network((int(prefix.network_address) | subnet << 64, 64))


def gateway(prefix: Prefix) -> Address:
    """Return the gateway address of a network prefix: its first usable address."""
    return prefix.network_address + 1


def _mac(first: int, digest: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in (first, *digest[:5]))
