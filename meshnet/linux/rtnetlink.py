"""Driver. rtnetlink's messages about links, addresses, neighbours, FDB entries and routes.

`pack_…` return one message for `Netlink.request`, `parse_…` take one body of a dump. The layouts
are those of rtnetlink(7): a fixed header by object, then attributes. An FDB entry is a neighbour
of family AF_BRIDGE: its link-layer address is the key, and NDA_DST is the VTEP.

Whatever bytes come in, only KernelRefused (EBADMSG) comes out.
"""

from __future__ import annotations

import errno
import functools
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import TypeVar

from meshnet.errors import KernelRefused
from meshnet.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attribute,
    attributes,
    message,
    nested,
)
from meshnet.model.addresses import Address, Interface, Prefix
from meshnet.plan.state import ROUTE_PROTOCOL

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

AF_BRIDGE = socket.AF_BRIDGE if hasattr(socket, "AF_BRIDGE") else 7

NUD_STALE, NUD_NOARP, NUD_PERMANENT = 0x04, 0x40, 0x80
NUD_VALID = 0xDE
"""States in which a neighbour has an address the kernel uses."""
NTF_SELF, NTF_MASTER = 0x02, 0x04

_IFF_UP = 0x1
_IFA_F_NODAD = 0x02
_RT_TABLE_MAIN, _RTN_UNICAST = 254, 1
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST, _SCOPE_ANY = 0, 253, 254, 255
_RTEXT_FILTER_SKIP_STATS = 8

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_GROUP, _IFLA_EXT_MASK, _IFLA_LINK_NETNSID = 18, 20, 27, 29, 37
_IFLA_AF_SPEC = 26
_CONF: dict[int, int] = {socket.AF_INET: 1, socket.AF_INET6: 2}
"""Where a family's part of a link has its settings: IFLA_INET_CONF, IFLA_INET6_CONF."""
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_DATA = 1, 2, 5
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_NDA_DST, _NDA_LLADDR, _NDA_PORT, _NDA_VNI, _NDA_IFINDEX, _NDA_MASTER = 1, 2, 6, 7, 8, 9
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTA_TABLE = 1, 4, 5, 8, 15
_RTAX_MTU = 2

_NDA_CACHEINFO, _CACHEINFO_BYTES = 3, 20
_CACHEINFO = struct.pack("=HH", _CACHEINFO_BYTES, _NDA_CACHEINFO)

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ROUTE = struct.Struct("=BBBBBBBBI")
_U32 = struct.Struct("=I")

FLOOD_MAC = "00:00:00:00:00:00"
"""The FDB key whose VTEPs get a copy of every broadcast and unknown frame."""

REPLACE = NLM_F_CREATE | NLM_F_REPLACE

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Link:
    """A link as dumped. `data` is the kind's own part, `port` that of a bridge port, both raw.

    `settings` are what /proc/sys/net has under conf/NAME, numbered by the kernel, by family.
    """

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    alias: str
    master: int
    peer: int
    peer_netns: int | None
    group: int = 0
    data: Mapping[int, bytes] = field(default_factory=dict)
    port: Mapping[int, bytes] = field(default_factory=dict)
    settings: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour or FDB entry. `plain` means: to the device's own UDP port and VNI."""

    index: int
    state: int
    flags: int
    mac: str
    address: Address | None
    master: int
    plain: bool


@dataclass(frozen=True, slots=True)
class Route:
    """A route as dumped."""

    prefix: Prefix
    index: int
    gateway: Address | None
    protocol: int
    table: int
    mtu: int = 0

    @property
    def is_ours(self) -> bool:
        return self.protocol == ROUTE_PROTOCOL


def dump_links() -> bytes:
    """Return the query for all links, without their counters."""
    skip = attribute(_IFLA_EXT_MASK, _U32.pack(_RTEXT_FILTER_SKIP_STATS))
    return message(RTM_GETLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + skip)


def get_link(name: str) -> bytes:
    """Return the query for one link by name."""
    body = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
    return message(RTM_GETLINK, 0, body)


def delete_link(index: int) -> bytes:
    """Return the message that removes a link."""
    return message(RTM_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0))


def pack_group(index: int, group: int) -> bytes:
    """Put a link into a group."""
    body = _LINK.pack(0, 0, index, 0, 0) + attribute(_IFLA_GROUP, _U32.pack(group))
    return message(RTM_NEWLINK, 0, body)


def delete_group(group: int) -> bytes:
    """Return the message that removes all links of a group."""
    body = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_GROUP, _U32.pack(group))
    return message(RTM_DELLINK, 0, body)


def dump_addresses() -> bytes:
    """Return the query for all addresses of both families."""
    return message(RTM_GETADDR, 0, _ADDRESS.pack(0, 0, 0, 0, 0))


def dump_neighbours(family: int, index: int) -> bytes:
    """Return the query for one link's neighbours; the kernel may send those of others too."""
    body = _NEIGHBOUR.pack(family, 0, 0, 0, 0) + attribute(_NDA_IFINDEX, _U32.pack(index))
    return message(RTM_GETNEIGH, 0, body)


def dump_fdb(index: int = 0) -> bytes:
    """Return the query for the FDB of all bridges and VXLAN devices, or for that of one link; an
    old kernel may send others too."""
    return message(RTM_GETNEIGH, 0, _NEIGHBOUR.pack(AF_BRIDGE, index, 0, 0, 0))


def get_neighbour(index: int, address: Address) -> bytes:
    """Return the query for one neighbour."""
    body = _NEIGHBOUR.pack(family_of(address), index, 0, 0, 0)
    return message(RTM_GETNEIGH, 0, body + attribute(_NDA_DST, address.packed))


def get_fdb(index: int, mac: str) -> bytes:
    """Return the query for one entry of a VXLAN device."""
    body = _NEIGHBOUR.pack(AF_BRIDGE, index, 0, NTF_SELF, 0)
    return message(RTM_GETNEIGH, 0, body + attribute(_NDA_LLADDR, mac_bytes(mac)))


def dump_routes(family: int) -> bytes:
    """Return the query for routes of our protocol; an old kernel may send others too."""
    return message(RTM_GETROUTE, 0, _ROUTE.pack(family, 0, 0, 0, 0, ROUTE_PROTOCOL, 0, 0, 0))


def pack_address(index: int, address: Interface, *, remove: bool = False) -> bytes:
    """Add an address (without duplicate detection) to a link, or remove it.

    One of IPv4 that is link-local has the host's scope: it is never the source of what leaves.
    """
    family = family_of(address)
    packed = address.ip.packed
    local = address.version == 4 and address.ip.is_link_local
    scope = _SCOPE_HOST if local else _SCOPE_UNIVERSE
    body = _ADDRESS.pack(family, address.network.prefixlen, _IFA_F_NODAD, scope, index)
    body += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    return message(RTM_DELADDR, 0, body) if remove else message(RTM_NEWADDR, REPLACE, body)


def pack_route(
    index: int,
    prefix: Prefix,
    gateway: Address | None = None,
    *,
    mtu: int = 0,
    remove: bool = False,
) -> bytes:
    """Add a route of our protocol to the main table, or remove it.

    `mtu` 0 is the device's.
    One that exists is never replaced, since it could be somebody else's: EEXIST.
    """
    link_scope = gateway is None and prefix.version == 4
    # A removal says "any": the kernel would else remove only a route of the very same scope.
    scope = _SCOPE_ANY if remove else _SCOPE_LINK if link_scope else _SCOPE_UNIVERSE
    body = _ROUTE.pack(
        family_of(prefix),
        prefix.prefixlen,
        0,
        0,
        _RT_TABLE_MAIN,
        ROUTE_PROTOCOL,
        scope,
        _RTN_UNICAST,
        0,
    )
    body += attribute(_RTA_DST, prefix.network_address.packed)
    body += attribute(_RTA_GATEWAY, gateway.packed) if gateway is not None else b""
    body += attribute(_RTA_OIF, _U32.pack(index))
    body += nested(_RTA_METRICS, attribute(_RTAX_MTU, _U32.pack(mtu))) if mtu else b""
    if remove:
        return message(RTM_DELROUTE, 0, body)
    return message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def pack_neighbour(index: int, address: Address, mac: str | None) -> bytes:
    """Add or replace a permanent neighbour; remove it where `mac` is None."""
    body = _NEIGHBOUR.pack(family_of(address), index, NUD_PERMANENT, 0, 0)
    body += attribute(_NDA_DST, address.packed)
    if mac is None:
        return message(RTM_DELNEIGH, 0, body)
    return message(RTM_NEWNEIGH, REPLACE, body + attribute(_NDA_LLADDR, mac_bytes(mac)))


def pack_fdb(index: int, mac: str, vtep: IPv4Address | None) -> bytes:
    """Add or replace a VXLAN device's entry; remove it, whatever its VTEP, where that is None."""
    body = _NEIGHBOUR.pack(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF, 0)
    body += attribute(_NDA_LLADDR, mac_bytes(mac))
    if vtep is None:
        return message(RTM_DELNEIGH, 0, body)
    return message(RTM_NEWNEIGH, REPLACE, body + attribute(_NDA_DST, vtep.packed))


def pack_flood(index: int, vtep: IPv4Address, flags: int, *, remove: bool = False) -> bytes:
    """Add a VTEP to those that get every broadcast and unknown frame, or remove it."""
    body = _NEIGHBOUR.pack(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF, 0)
    body += attribute(_NDA_LLADDR, bytes(6)) + attribute(_NDA_DST, vtep.packed)
    return message(RTM_DELNEIGH if remove else RTM_NEWNEIGH, 0 if remove else flags, body)


def pack_bridge_fdb(index: int, mac: str) -> bytes:
    """Tie a MAC to a bridge port: it is not aged, and a locked port lets no other one in."""
    body = _NEIGHBOUR.pack(AF_BRIDGE, index, NUD_NOARP, NTF_MASTER, 0)
    return message(RTM_NEWNEIGH, REPLACE, body + attribute(_NDA_LLADDR, mac_bytes(mac)))


def delete_bridge_fdb(index: int, mac: str) -> bytes:
    """Untie a MAC from a bridge port."""
    body = _NEIGHBOUR.pack(AF_BRIDGE, index, 0, NTF_MASTER, 0)
    return message(RTM_DELNEIGH, 0, body + attribute(_NDA_LLADDR, mac_bytes(mac)))


def _guarded(parse: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Map what a broken body can raise to our own error."""

    @functools.wraps(parse)
    def guarded(body: bytes) -> T:
        try:
            return parse(body)
        except (struct.error, ValueError, LookupError) as error:
            raise KernelRefused(f"malformed rtnetlink body: {error}", errno.EBADMSG) from error

    return guarded


@_guarded
def parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    values = attributes(body[_LINK.size :])
    info = attributes(values.get(_IFLA_LINKINFO, b""))
    nsid = values.get(_IFLA_LINK_NETNSID)
    kind = _text(info.get(_INFO_KIND, b""))
    return Link(
        index=index,
        name=_text(values.get(_IFLA_IFNAME, b"")),
        kind=kind,
        mac=values.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(values, _IFLA_MTU),
        up=bool(flags & _IFF_UP),
        alias=_text(values.get(_IFLA_IFALIAS, b"")),
        master=_number(values, _IFLA_MASTER),
        peer=_number(values, _IFLA_LINK),
        peer_netns=None if nsid is None else int(_U32.unpack(nsid)[0]),
        group=_number(values, _IFLA_GROUP),
        data=attributes(info[_INFO_DATA])
        if kind in _KINDS_WITH_DATA and _INFO_DATA in info
        else {},
        port=attributes(info.get(_INFO_SLAVE_DATA, b"")),
        settings=_settings(attributes(values.get(_IFLA_AF_SPEC, b""))),
    )


_KINDS_WITH_DATA = frozenset({"vxlan", "bridge"})


def _settings(families: Mapping[int, bytes]) -> dict[int, tuple[int, ...]]:
    """Return the settings of each family the link speaks."""
    found: dict[int, tuple[int, ...]] = {}
    for family, kind in _CONF.items():
        data = attributes(families.get(family, b"")).get(kind)
        if data is not None:
            found[family] = struct.unpack(f"={len(data) // 4}i", data)
    return found


@_guarded
def parse_address(body: bytes) -> tuple[int, Interface]:
    """Return (link index, address with prefix length)."""
    family, length, _, _, index = _ADDRESS.unpack_from(body)
    values = attributes(body[_ADDRESS.size :])
    packed = values.get(_IFA_LOCAL) or values[_IFA_ADDRESS]
    if family == socket.AF_INET:
        return index, IPv4Interface((IPv4Address(packed), length))
    return index, IPv6Interface((IPv6Address(packed), length))


def parse_neighbour(body: bytes) -> Neighbour:
    """Return a neighbour or FDB entry; the same bytes give the same object.

    Audits read the same thousands of entries again and again. All that differs from one time to
    the next is how long ago the kernel used them, which it says last and nobody asks for.
    """
    head = body[:-_CACHEINFO_BYTES]
    used_last = body[-_CACHEINFO_BYTES:].startswith(_CACHEINFO)
    return _parse_neighbour(head if used_last else body)


@functools.lru_cache(maxsize=2**15)
@_guarded
def _parse_neighbour(body: bytes) -> Neighbour:
    _, index, state, flags, _ = _NEIGHBOUR.unpack_from(body)
    values = attributes(body[_NEIGHBOUR.size :])
    return Neighbour(
        index=index,
        state=state,
        flags=flags,
        mac=values.get(_NDA_LLADDR, b"").hex(":"),
        address=_address(values.get(_NDA_DST)),
        master=_number(values, _NDA_MASTER),
        plain=values.keys().isdisjoint((_NDA_PORT, _NDA_VNI, _NDA_IFINDEX)),
    )


@_guarded
def parse_route(body: bytes) -> Route:
    family, length, _, _, table, protocol, _, _, _ = _ROUTE.unpack_from(body)
    values = attributes(body[_ROUTE.size :])
    destination = values.get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16))
    prefix: Prefix
    if family == socket.AF_INET:
        prefix = IPv4Network((destination, length))
    else:
        prefix = IPv6Network((destination, length))
    return Route(
        prefix=prefix,
        index=_number(values, _RTA_OIF),
        gateway=_address(values.get(_RTA_GATEWAY)),
        protocol=protocol,
        table=_number(values, _RTA_TABLE) or table,
        mtu=_number(attributes(values.get(_RTA_METRICS, b"")), _RTAX_MTU),
    )


def header_of_neighbour(body: bytes) -> tuple[int, int, int]:
    """Return (family, link index, state) of a neighbour without looking further; zeros when cut."""
    if len(body) < _NEIGHBOUR.size:
        return 0, 0, 0
    family, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
    return family, index, state


def protocol_of_route(body: bytes) -> int:
    """Return a route's protocol number without looking further; 0 when cut."""
    return body[5] if len(body) >= _ROUTE.size else 0


def family_of(value: Address | Interface | Prefix) -> int:
    return int(socket.AF_INET if value.version == 4 else socket.AF_INET6)


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _address(packed: bytes | None) -> Address | None:
    if packed is None:
        return None
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _number(values: Mapping[int, bytes], kind: int) -> int:
    data = values.get(kind)
    return 0 if data is None else int(_U32.unpack(data)[0])


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
