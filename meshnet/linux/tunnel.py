"""Driver. The link side of the tunnel: what every device has, whichever WireGuard made it."""

from __future__ import annotations

import errno

from meshnet.errors import KernelRefused
from meshnet.linux import sysctl
from meshnet.linux.links import set_link
from meshnet.linux.namespace import Namespace
from meshnet.linux.wireguard import WireGuard
from meshnet.plan.state import Tunnel


def read(host: Namespace, wireguard: WireGuard, name: str) -> Tunnel | None:
    """Return the tunnel, peers, addresses and routes; None when there is none of ours."""
    device = wireguard.read(name)
    link = None if device is None else host.link(name)
    if device is None or link is None:
        return None
    return Tunnel(
        name=name,
        private_key=device.private_key,
        listen_port=device.listen_port,
        mtu=link.mtu,
        addresses=host.addresses(link.index),
        routes=frozenset(host.routes(link.index)),
        peers=device.peers,
        fwmark=device.fwmark,
        up=link.up,
        status=device.status,
    )


def prepare(host: Namespace, name: str) -> None:
    """Let the device speak IPv6 and make no address of its own, before it comes up."""
    sysctl.set_all(host.descriptor, sysctl.quiet(name))


def set_up(host: Namespace, name: str, mtu: int) -> None:
    """Set the MTU and bring the device up."""
    prepare(host, name)
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
