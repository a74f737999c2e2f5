"""Driver. The far end of a port: an interface in a container's namespace, or in the host's.

Of a foreign namespace only our own interface is looked at and changed, and no descriptor to the
namespace outlives the call, so that it can end when its container does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from meshnet.linux import rtnetlink as rt
from meshnet.linux import sysctl
from meshnet.linux.links import GROUP, set_link
from meshnet.linux.namespace import Namespace
from meshnet.linux.netlink import Netlink
from meshnet.linux.netns import open_path
from meshnet.plan.state import ALIAS, HOST, Port

LOOPBACK = {"ipv6/conf/lo/disable_ipv6": "0"}
"""A container reaches its own address by its loopback, where Docker turns IPv6 off, too."""


class Inside(Namespace):
    """A namespace that is open for one call."""

    def __init__(self, descriptor: int, netlink: Netlink, port: Port) -> None:
        is_host = port.netns == HOST
        super().__init__(descriptor, netlink, "the host" if is_host else port.netns)
        self.group = GROUP if is_host else 0


@contextmanager
def enter(home: int, port: Port) -> Iterator[Inside]:
    """Open the namespace a port leads to; NotFound when it has ended."""
    if port.netns == HOST:
        with Netlink(netns=home) as netlink:
            yield Inside(home, netlink, port)
        return
    descriptor = open_path(port.netns, port.inode)
    try:
        with Netlink(netns=descriptor) as netlink:
            yield Inside(descriptor, netlink, port)
    finally:
        os.close(descriptor)


def find_far_end(there: Inside, end: rt.Link) -> rt.Link | None:
    """Return the link whose other end is `end`, where that is in this namespace."""
    for link in there.links():
        if link.index == end.peer and link.peer == end.index and link.kind == "veth":
            return link
    return None


def set_far_end(there: Inside, link: rt.Link, port: Port) -> None:
    """Bring name, MAC, MTU, mark, addresses and routes of the far end to what the port says."""
    name = port.interface
    if link.name != name:
        # Older kernels rename a link only while it is down.
        set_link(there, link.index, link.name, up=False)
        set_link(there, link.index, link.name, name=name)
    own = LOOPBACK if port.netns != HOST else {}
    sysctl.set_all(there.descriptor, sysctl.quiet(name) | own)
    wanted = (port.mtu, there.group, ALIAS, True)
    if link.mac != port.mac:
        # Setting it, even to what it is, makes the kernel forget all neighbours.
        set_link(there, link.index, name, mac=port.mac)
    if link.name != name or (link.mtu, link.group, link.alias, link.up) != wanted:
        mtu, group, alias, up = wanted
        set_link(there, link.index, name, mtu=mtu, group=group, alias=alias, up=up)
    there.set_addresses(link.index, port.addresses)
    by_family = {gateway.version: gateway for gateway in sorted(port.gateways, key=str)}
    routes = {one: by_family.get(one.version) for one in sorted(port.routes, key=str)}
    there.set_routes(link.index, routes)
