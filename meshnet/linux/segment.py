"""Driver. A network's skeleton: bridge and VXLAN device in its namespace, wired so it keeps quiet.

      host's namespace                  meshnet-NET
    ┌──────────────────┐   ┌────────────────────────────────────────┐
    │ UDP port 14789 ──┼───┼── vx0 ── br0 (gateway) ─┬─ pXXXX ──────┼── mesh0 of a container
    │   over meshnet0  │   │  FDB, neighbours        └─ pYYYY ──────┼── mesh-NET of the host
    └──────────────────┘   └────────────────────────────────────────┘

The VXLAN device is made in the host's namespace and put into the network's in the same step, so
its socket stays where the tunnel is, and no half-made device ever lies in the host's.

Nothing is learned: no bridge port learns, vx0 neither. A frame to an unknown MAC leaves by vx0
only, which drops what its FDB does not know. ARP and ND queries are broadcast on the bridge; vx0
answers for remote attachments from its neighbours (VXLAN's `proxy`) and passes none on. What a port
may send from is `source_guard`'s.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from meshnet.linux import rtnetlink as rt
from meshnet.linux import sysctl
from meshnet.linux.entries import Fdb, read_neighbours, set_neighbours
from meshnet.linux.links import (
    PORT_BROADCAST_FLOOD,
    PORT_LEARNING,
    PORT_MULTICAST_FLOOD,
    PORT_UNICAST_FLOOD,
    make_bridge,
    make_vxlan,
    name_again,
    set_link,
    set_port,
)
from meshnet.linux.namespace import Namespace
from meshnet.linux.spaces import Space
from meshnet.plan.state import ALIAS, BRIDGE, VXLAN, VXLAN_PORT, Segment

_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PROXY, _VXLAN_PORT = 1, 4, 7, 11, 15
_VXLAN_COLLECT_METADATA = 25
_BRIDGE_STP, _BRIDGE_VLAN_FILTERING, _BRIDGE_SNOOPING = 5, 7, 23
_FLOODS_ALL = {
    PORT_LEARNING: False,
    PORT_UNICAST_FLOOD: True,
    PORT_MULTICAST_FLOOD: True,
    PORT_BROADCAST_FLOOD: True,
}

_NETFILTER = ("iptables", "ip6tables", "arptables")

_QUIET_NAMESPACE = {
    "ipv4/ip_forward": "0",
    "ipv4/conf/all/forwarding": "0",
    "ipv6/conf/all/forwarding": "0",
    "ipv6/conf/default/addr_gen_mode": "1",
    "ipv6/conf/default/accept_ra": "0",
} | {f"bridge/bridge-nf-call-{name}": "0" for name in _NETFILTER}
_QUIET_LINKS = sysctl.quiet(BRIDGE) | sysctl.quiet(VXLAN)


def build(space: Space, home: Namespace, segment: Segment) -> None:
    """Make the skeleton, or mend what differs; `home` is the host's namespace."""
    links = {link.name: link for link in name_again(space, {"bridge": BRIDGE, "vxlan": VXLAN})}
    sysctl.set_all(space.descriptor, _QUIET_NAMESPACE)
    if not links["lo"].up:
        set_link(space, links["lo"].index, "lo", up=True)
    bridge = _bridge(space, links.get(BRIDGE), segment)
    vxlan = _vxlan(space, home, links.get(VXLAN), segment)
    sysctl.set_all(space.descriptor, _QUIET_LINKS)
    space.source_guard.build(segment.gateways, segment.ports)
    _wire(space, bridge, vxlan, segment)
    space.set_addresses(bridge.index, segment.gateways)


def read(space: Space, links: Iterable[rt.Link], fdb: Fdb) -> Segment:
    """Return the skeleton with the flood list and FDB, without neighbours and ports."""
    by_name = {link.name: link for link in links}
    bridge, vxlan = by_name.get(BRIDGE), by_name.get(VXLAN)
    if bridge is not None and bridge.kind != "bridge":
        bridge = None
    vni, local = (0, IPv4Address(0)) if vxlan is None else _identity(vxlan)
    gateways = space.addresses(bridge.index) if bridge else frozenset()
    guarded = space.source_guard.is_whole(gateways)
    quiet = all(map(sysctl.is_quiet, filter(None, (bridge, vxlan)))) and sysctl.are_set(
        space.descriptor, _QUIET_NAMESPACE
    )
    return Segment(
        vni=vni,
        mtu=_mtu(bridge, vxlan) if guarded and quiet else 0,
        local=local,
        vtep_mac=vxlan.mac if vxlan else "",
        gateway_mac=bridge.mac if bridge else "",
        gateways=gateways,
        fdb=fdb.vteps,
        flood=fdb.flood,
    )


def broken() -> Segment:
    """Return what a network reads as that has a name and nothing behind it."""
    return Segment(0, 0, IPv4Address(0), "", "", frozenset())


def _bridge(space: Space, link: rt.Link | None, segment: Segment) -> rt.Link:
    if link is not None and not _is_bridge(link):
        space.delete(link)
        link = None
    if link is None:
        make_bridge(space, BRIDGE, segment.gateway_mac, segment.mtu)
        link = space.require(BRIDGE)
    return link


def _vxlan(space: Space, home: Namespace, link: rt.Link | None, segment: Segment) -> rt.Link:
    if link is not None and _identity(link) != (segment.vni, segment.local):
        space.delete(link)
        link = None
    if link is None:
        make_vxlan(home, space.descriptor, segment)
        link = space.require(VXLAN)
    return link


def _wire(space: Space, bridge: rt.Link, vxlan: rt.Link, segment: Segment) -> None:
    for link, mac in ((vxlan, segment.vtep_mac), (bridge, segment.gateway_mac)):
        if link.alias != ALIAS:
            set_link(space, link.index, f"alias of {link.name}", alias=ALIAS)
        if link.mac != mac:
            _set_mac(space, link, mac)
        if link.mtu != segment.mtu:
            set_link(space, link.index, link.name, mtu=segment.mtu)
    if vxlan.master != bridge.index:
        set_link(space, vxlan.index, VXLAN, master=bridge.index)
        vxlan = space.require(VXLAN)
    if not _floods_all(vxlan):
        set_port(space, vxlan.index, VXLAN, _FLOODS_ALL)
    for link in (vxlan, bridge):
        if not link.up:
            set_link(space, link.index, link.name, up=True)


def _set_mac(space: Space, link: rt.Link, mac: str) -> None:
    """Change a MAC without losing neighbours: the kernel forgets them all when it changes."""
    kept = read_neighbours(space.netlink, link.index)
    set_link(space, link.index, link.name, mac=mac)
    set_neighbours(space.netlink, link.index, {one: to for one, to in kept.items() if to})


def _identity(vxlan: rt.Link) -> tuple[int, IPv4Address]:
    """Return (VNI, local VTEP); zeros for a device that is not of our making."""
    data = vxlan.data
    ours = (
        vxlan.kind == "vxlan"
        and len(data.get(_VXLAN_ID, b"")) == len(data.get(_VXLAN_LOCAL, b"")) == 4
        and data.get(_VXLAN_PORT) == VXLAN_PORT.to_bytes(2, "big")
        and not is_on(data, _VXLAN_LEARNING)
        and is_on(data, _VXLAN_PROXY)
        and not is_on(data, _VXLAN_COLLECT_METADATA)
        # A device made inside has its socket there too, where there is no tunnel.
        and vxlan.peer_netns is not None
    )
    if not ours:
        return 0, IPv4Address(0)
    return int.from_bytes(data[_VXLAN_ID], sys.byteorder), IPv4Address(data[_VXLAN_LOCAL])


def _is_bridge(link: rt.Link) -> bool:
    data = link.data
    return link.kind == "bridge" and not any(
        is_on(data, key) for key in (_BRIDGE_STP, _BRIDGE_VLAN_FILTERING, _BRIDGE_SNOOPING)
    )


def _floods_all(vxlan: rt.Link) -> bool:
    return all(is_on(vxlan.port, flag) == wanted for flag, wanted in _FLOODS_ALL.items())


def is_on(data: Mapping[int, bytes], key: int) -> bool:
    """Say whether a numeric attribute of a link's raw data is there and not zero."""
    return any(data.get(key, b""))


def _mtu(bridge: rt.Link | None, vxlan: rt.Link | None) -> int:
    """Return the MTU both devices have, 0 when they differ or are not wired as we do."""
    if bridge is None or vxlan is None or not _is_bridge(bridge):
        return 0
    wired = vxlan.master == bridge.index and vxlan.up and bridge.up and _floods_all(vxlan)
    marked = vxlan.alias == bridge.alias == ALIAS
    return vxlan.mtu if wired and marked and vxlan.mtu == bridge.mtu else 0
