"""Driver. The link side of the tunnel: what every device has, whichever WireGuard made it."""

from __future__ import annotations

import errno
from collections.abc import Collection

from meshnet.errors import KernelRefused
from meshnet.linux import rtnetlink as rt
from meshnet.linux import sysctl
from meshnet.linux.links import set_link
from meshnet.linux.namespace import Namespace
from meshnet.linux.wireguard import WireGuard
from meshnet.plan.state import ALIAS, Tunnel


def read(host: Namespace, wireguard: WireGuard, name: str) -> Tunnel | None:
    """Return the tunnel, peers, addresses and routes; None when there is none of ours."""
    device = wireguard.read(name)
    link = None if device is None else host.link(name)
    if device is None or link is None:
        return None
    routes = host.all_routes()
    elsewhere = [route for route in routes if route.index != link.index]
    intact = sysctl.is_quiet(link) and not _strays(host, elsewhere)
    return Tunnel(
        name=name,
        private_key=device.private_key,
        listen_port=device.listen_port,
        mtu=link.mtu,
        addresses=host.addresses(link.index),
        routes={route.prefix: route.mtu for route in routes if route.index == link.index},
        peers=device.peers,
        fwmark=device.fwmark,
        up=link.up and intact,
        status=device.status,
    )


def prepare(host: Namespace, name: str) -> None:
    """Let the device speak IPv6 and make no address of its own, before it comes up."""
    sysctl.set_all(host.descriptor, sysctl.quiet(name))


def set_up(host: Namespace, name: str, mtu: int) -> None:
    """Set the MTU and bring the device up; routes that stand in for ours go."""
    prepare(host, name)
    for route in _strays(host, host.all_routes()):
        host.remove_route(route.index, route.prefix)
    link = host.require(name)
    if link.mtu != mtu:
        set_link(host, link.index, name, mtu=mtu)
    if not link.up:
        try:
            set_link(host, link.index, name, up=True)
        except KernelRefused as error:
            if error.errno != errno.EADDRINUSE:
                raise
            hint = "Another socket holds the UDP port: take another one."
            raise KernelRefused(error.message, error.errno, hint) from error


def _strays(host: Namespace, routes: Collection[rt.Route]) -> list[rt.Route]:
    """Return those of our routes that somebody has made to lead over a link that is not ours."""
    if not routes:
        return []
    ours = {link.index for link in host.links() if link.alias.split(" ")[0] == ALIAS}
    return [route for route in routes if route.index not in ours]
