"""Driver. Ports: a veth pair from a network's bridge into a container's namespace or the host's.

The pair is made in one step, the far end under its last name in its last place, so a crash leaves
nothing half-made that could not be told from a finished port by reading. The kernel does not know
by which path a namespace was named, so that is written down on the bridge's end, as its alias:

    meshnet 4026532281 /proc/17/ns/net        inode and path; inode 0 is the host

The bridge lets in only frames from the port's own MAC (a locked port with one static FDB entry) and
its own addresses (`source_guard`), and sends no frame with an unknown MAC to it.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Collection, Iterable
from dataclasses import replace

from meshnet.errors import Conflict, KernelRefused, NotFound
from meshnet.linux import rtnetlink as rt
from meshnet.linux.entries import Fdb, read_tied
from meshnet.linux.inside import Inside, enter, find_far_end, set_far_end
from meshnet.linux.links import (
    PORT_BROADCAST_FLOOD,
    PORT_LEARNING,
    PORT_LOCKED,
    PORT_MULTICAST_FLOOD,
    PORT_STATE,
    PORT_UNICAST_FLOOD,
    make_veth,
    set_link,
    set_port,
)
from meshnet.linux.segment import is_on
from meshnet.linux.spaces import LEAVING, Space
from meshnet.linux.sysctl import is_quiet, quiet, set_all
from meshnet.plan.state import ALIAS, BRIDGE, HANDED, HOST, Port, handed_interface

FORWARDS_WITHIN = 0.2
"""Seconds for which a new port is waited for."""
_FORWARDING = b"\3"

_GUARDED = {
    PORT_LEARNING: False,
    PORT_UNICAST_FLOOD: False,
    PORT_MULTICAST_FLOOD: True,
    PORT_BROADCAST_FLOOD: True,
    PORT_LOCKED: True,
}


def set_one(space: Space, home: int, name: str, port: Port) -> None:
    """Make a port, or mend what differs; `home` is the host's namespace."""
    bridge, end = space.link(BRIDGE), space.link(name)
    if bridge is None:
        raise NotFound(f"network {space.network} has no bridge", "It is built again by itself.")
    if port.netns == HANDED:
        if end is None:
            make_veth(space, name, home, port.interface, port.mac, port.mtu)
        # Where the other one is by now is not ours to know.
        _set_end(space, bridge.index, end or space.require(name), port)
        return
    with enter(home, port) as there:
        far = None if end is None else find_far_end(there, end)
        if end is not None and far is None:
            space.delete(end)
        if end is None or far is None:
            end, far = _make(space, there, name, port)
        _set_end(space, bridge.index, end, port)
        set_far_end(there, far, port)
    _wait_until_it_forwards(space, name)


def _wait_until_it_forwards(space: Space, name: str) -> None:
    """Give the kernel a moment: it lets a bridge's port forward a little after both ends are up,
    and until then what the container is sent is lost."""
    limit = time.monotonic() + FORWARDS_WITHIN
    while time.monotonic() < limit:
        if space.require(name).port.get(PORT_STATE, b"")[:1] == _FORWARDING:
            return
        time.sleep(0.001)


def remove(space: Space, names: Collection[str]) -> None:
    """Remove both ends of ports; none is fine, too."""
    links = [link for name in names if (link := space.link(name)) and link.kind == "veth"]
    space.remove(links)
    space.source_guard.forget(names)


def read_all(space: Space, home: int, links: Iterable[rt.Link], fdb: Fdb) -> dict[str, Port]:
    """Return every port, by the name of its end on the bridge.

    One that is gone, but may still send, is told of as broken: so it gets mended or removed.
    """
    by_name = {link.name: link for link in links}
    bridge = by_name.get(BRIDGE)
    grants = space.source_guard.grants
    ports = {
        name: Port("?", 0, "", "", 0, frozenset(), sources=grants[name].addresses)
        for name in grants
    }
    for name, link in by_name.items():
        if link.kind == "veth":
            port = _read(home, link, 0 if bridge is None else bridge.index, fdb)
            grant = grants.get(name)
            sources = grant.addresses if grant and grant.mac == port.mac else frozenset()
            ports[name] = replace(port, sources=sources)
    return dict(sorted(ports.items()))


def _make(space: Space, there: Inside, name: str, port: Port) -> tuple[rt.Link, rt.Link]:
    try:
        make_veth(space, name, there.descriptor, port.interface, port.mac, port.mtu)
    except KernelRefused as error:
        if error.errno != errno.EEXIST:
            raise
        raise Conflict(
            f"{there.what} has a link {port.interface} already",
            "Take it away, or choose another interface name.",
        ) from error
    return space.require(name), there.require(port.interface)


def _set_end(space: Space, bridge: int, end: rt.Link, port: Port) -> None:
    space.source_guard.allow(end.name, port)
    set_all(space.descriptor, quiet(end.name))
    alias, mtu = _alias(port), port.mtu
    if (end.alias, end.mtu, end.master, end.group) != (alias, mtu, bridge, 0):
        set_link(space, end.index, end.name, alias=alias, mtu=mtu, master=bridge, group=0)
    if end.master != bridge or not _is_guarded(end):
        set_port(space, end.index, end.name, _GUARDED)
    _tie(space, end, port.mac)
    if not end.up:
        set_link(space, end.index, end.name, up=True)


def _tie(space: Space, end: rt.Link, mac: str) -> None:
    """Make the port's MAC, and no other, the one the bridge lets in and sends there."""
    tied = {one for index, one in read_tied(space.netlink, end.index) if index == end.index}
    messages = [rt.delete_bridge_fdb(end.index, one) for one in sorted(tied - {mac})]
    messages += [] if mac in tied else [rt.pack_bridge_fdb(end.index, mac)]
    what = f"tie MAC {mac} to port {end.name}"
    space.netlink.request(messages, lambda _: what, ignore=(errno.ENOENT,))


def _is_guarded(end: rt.Link) -> bool:
    return all(
        is_on(end.port, flag) == wanted
        for flag, wanted in _GUARDED.items()
        if flag != PORT_LOCKED or PORT_LOCKED in end.port
    )


def _alias(port: Port) -> str:
    return f"{ALIAS} {port.inode} {port.netns}".rstrip()


def _place(alias: str) -> tuple[str, int]:
    """Return (path, inode) of the namespace that an alias names; a path of '?' for any other."""
    words = alias.split(" ", 2)
    if words[0] != ALIAS or len(words) < 2 or not words[1].isdigit():
        return "?", 0
    return (words[2] if len(words) > 2 else HOST), int(words[1])


def _read(home: int, end: rt.Link, bridge: int, fdb: Fdb) -> Port:
    netns, inode = _place(end.alias)
    if netns == HANDED:
        return _read_handed(end, bridge, fdb)
    port = Port(netns, inode, "", "", 0, frozenset())
    try:
        with enter(home, port) as there:
            far = find_far_end(there, end)
            if far is None:
                return port
            routes = there.routes(far.index)
            wired = (
                end.up
                and far.up
                and bridge
                and end.master == bridge
                and end.mtu == far.mtu
                and end.group != LEAVING
                and far.alias == ALIAS
                and far.group == there.group
                and (port.netns != HOST or is_quiet(far))
                and _is_guarded(end)
                and {mac for index, mac in fdb.tied if index == end.index} == {far.mac}
            )
            return Port(
                netns=netns,
                inode=inode,
                interface=far.name,
                mac=far.mac,
                mtu=far.mtu if wired else 0,
                addresses=there.addresses(far.index),
                routes=frozenset(routes),
                gateways=frozenset(one for one in routes.values() if one is not None),
            )
    except NotFound:
        return port


def _read_handed(end: rt.Link, bridge: int, fdb: Fdb) -> Port:
    tied = [mac for index, mac in fdb.tied if index == end.index]
    wired = end.up and bridge and end.master == bridge and _is_guarded(end) and len(tied) == 1
    wired = wired and end.group != LEAVING
    mac, mtu = (tied[0], end.mtu) if wired else ("", 0)
    return Port(HANDED, 0, handed_interface(end.name), mac, mtu, frozenset())
