"""Driver. Making and setting links, one message each.

Context: a first network on a host takes a dozen of these, and they lie between an agent's start
and its first packet. Choice: packed by `struct` like all else here; pyroute2 is the oracle of the
tests. Price: the numbers of the attributes below. With pyroute2 the same dozen took fifty
milliseconds, its import a hundred, and its modules ten megabytes in every agent.

What the kernel does not take on creation is a second message: the alias, and the flags of a bridge
port, which is none before it has a master.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping

from meshnet.errors import KernelRefused
from meshnet.linux.namespace import Namespace
from meshnet.linux.netlink import NLM_F_CREATE, NLM_F_EXCL, attribute, message
from meshnet.linux.rtnetlink import RTM_NEWLINK, Link, mac_bytes
from meshnet.plan.state import ALIAS, VXLAN, VXLAN_PORT, Segment

GROUP = 109
"""Our mark on links in the host's namespace that nft can match: nothing of them is forwarded."""

PORT_STATE = 1
PORT_LEARNING, PORT_UNICAST_FLOOD, PORT_MULTICAST_FLOOD, PORT_BROADCAST_FLOOD = 8, 9, 27, 30
PORT_LOCKED = 39
"""Absent before Linux 5.18, which cannot lock a port."""

_IFF_UP = 1
_ADDRESS, _IFNAME, _MTU, _MASTER, _LINKINFO, _IFALIAS, _GROUP, _NETNS = 1, 3, 4, 10, 18, 20, 27, 28
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_AGEING, _VXLAN_PROXY = 1, 4, 7, 8, 11
_VXLAN_PORT = 15
_BRIDGE_STP, _BRIDGE_SNOOPING = 5, 23
_VETH_PEER = 1

_HEADER = struct.Struct("=BxHiII")
_U32 = struct.Struct("=I")


def make_vxlan(home: Namespace, target: int, segment: Segment) -> None:
    """Make the VXLAN device: its socket in the namespace `home`, itself in `target`."""
    data = (
        attribute(_VXLAN_ID, _U32.pack(segment.vni)),
        attribute(_VXLAN_LOCAL, segment.local.packed),
        attribute(_VXLAN_LEARNING, b"\0"),
        attribute(_VXLAN_AGEING, _U32.pack(0)),
        attribute(_VXLAN_PROXY, b"\1"),
        attribute(_VXLAN_PORT, VXLAN_PORT.to_bytes(2, "big")),
    )
    body = _named(VXLAN, segment.vtep_mac, segment.mtu) + attribute(_NETNS, _U32.pack(target))
    what = f"create VXLAN device with VNI {segment.vni} and port {VXLAN_PORT}"
    try:
        _make(home, body + _info("vxlan", *data), what)
    except KernelRefused as error:
        if error.errno != errno.EEXIST:
            raise
        hint = "Take the other device away that has them: see `ip -d link show type vxlan`."
        raise KernelRefused(error.message, error.errno, hint) from error


def make_bridge(space: Namespace, name: str, mac: str, mtu: int) -> None:
    """Make a bridge that neither learns topology nor snoops."""
    data = attribute(_BRIDGE_STP, _U32.pack(0)), attribute(_BRIDGE_SNOOPING, b"\0")
    _make(space, _named(name, mac, mtu) + _info("bridge", *data), f"create bridge {name}")


def make_veth(space: Namespace, name: str, target: int, interface: str, mac: str, mtu: int) -> None:
    """Make a veth pair in one step: `name` in `space`, `interface` in `target`."""
    peer = _named(interface, mac, mtu) + attribute(_NETNS, _U32.pack(target))
    body = _named(name, "", mtu) + _info("veth", attribute(_VETH_PEER, _header() + peer))
    _make(space, body, f"create veth {name} to {interface}")


def set_link(
    space: Namespace,
    index: int,
    what: str,
    *,
    up: bool | None = None,
    name: str = "",
    mac: str = "",
    mtu: int = 0,
    master: int = 0,
    alias: str = "",
    group: int | None = None,
) -> None:
    """Set what is given of a link; the rest stays. `what` names it in errors."""
    body = _named(name, mac, mtu)
    body += attribute(_MASTER, _U32.pack(master)) if master else b""
    body += attribute(_IFALIAS, _text(alias)) if alias else b""
    body += attribute(_GROUP, _U32.pack(group)) if group is not None else b""
    header = _header(index) if up is None else _header(index, _IFF_UP if up else 0, _IFF_UP)
    space.netlink.request([message(RTM_NEWLINK, 0, header + body)], [f"set {what}"])


def set_port(space: Namespace, index: int, what: str, flags: dict[int, bool]) -> None:
    """Set a bridge port's flags, by their numbers above."""
    data = b"".join(attribute(flag, bytes([value])) for flag, value in flags.items())
    info = attribute(_SLAVE_KIND, _text("bridge")) + attribute(_SLAVE_DATA, data)
    one = message(RTM_NEWLINK, 0, _header(index) + attribute(_LINKINFO, info))
    space.netlink.request([one], [f"set bridge port {what}"])


def name_again(space: Namespace, names: Mapping[str, str]) -> list[Link]:
    """Give links of ours, by kind, their names back if somebody changed them; return all links.

    Where the name has been given to another link meanwhile, ours goes: there is one of each kind.
    """
    links = space.links()
    taken = {link.name for link in links}
    strays = [link for link in links if link.alias == ALIAS and _is_moved(link, names)]
    for link in strays:
        name = names[link.kind]
        if name in taken:
            space.delete(link)
            continue
        # Older kernels rename a link only while it is down.
        set_link(space, link.index, link.name, up=False)
        set_link(space, link.index, link.name, name=name)
        taken.add(name)
    return space.links() if strays else links


def _is_moved(link: Link, names: Mapping[str, str]) -> bool:
    return link.kind in names and link.name != names[link.kind]


def _make(space: Namespace, body: bytes, what: str) -> None:
    one = message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _header() + body)
    space.netlink.request([one], [what])


def _header(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    """Return a struct ifinfomsg (rtnetlink(7))."""
    return _HEADER.pack(0, 0, index, flags, change)


def _named(name: str, mac: str, mtu: int) -> bytes:
    """Return the attributes that every link has, those that are given."""
    body = attribute(_IFNAME, _text(name)) if name else b""
    body += attribute(_ADDRESS, mac_bytes(mac)) if mac else b""
    return body + (attribute(_MTU, _U32.pack(mtu)) if mtu else b"")


def _info(kind: str, *data: bytes) -> bytes:
    info = attribute(_KIND, _text(kind)) + attribute(_DATA, b"".join(data))
    return attribute(_LINKINFO, info)


def _text(text: str) -> bytes:
    return text.encode() + b"\0"
