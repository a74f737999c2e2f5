"""Driver. Making and setting links, by pyroute2: rare calls, where its clarity is worth its time.

Every function says in which namespace it works (a descriptor) and does so in a thread of its own.
pyroute2's errors become KernelRefused here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from meshnet.errors import KernelRefused
from meshnet.linux.netns import inside
from meshnet.plan.state import ALIAS, VXLAN, VXLAN_PORT, Segment

T = TypeVar("T")

GROUP = 109
"""Our mark on links in the host's namespace that nft can match: nothing of them is forwarded."""


def make_vxlan(home: int, target: int, segment: Segment) -> None:
    """Make the VXLAN device: its socket in the namespace `home`, itself in `target`."""

    def make(route: Any) -> None:
        route.link(
            "add",
            ifname=VXLAN,
            kind="vxlan",
            net_ns_fd=target,
            address=segment.vtep_mac,
            mtu=segment.mtu,
            vxlan_id=segment.vni,
            vxlan_local=str(segment.local),
            vxlan_port=VXLAN_PORT,
            vxlan_learning=0,
            vxlan_proxy=1,
            vxlan_ageing=0,
        )

    _route(home, f"create VXLAN device with VNI {segment.vni} and port {VXLAN_PORT}", make)


def make_bridge(space: int, name: str, mac: str, mtu: int) -> None:
    """Make a bridge that neither learns topology nor snoops."""

    def make(route: Any) -> None:
        route.link(
            "add",
            ifname=name,
            kind="bridge",
            address=mac,
            mtu=mtu,
            br_stp_state=0,
            br_mcast_snooping=0,
        )

    _route(space, f"create bridge {name}", make)


def make_veth(space: int, name: str, target: int, interface: str, mac: str, mtu: int) -> None:
    """Make a veth pair in one step: `name` in `space`, `interface` in `target`."""
    peer = {"ifname": interface, "net_ns_fd": target, "address": mac, "mtu": mtu}

    def make(route: Any) -> None:
        route.link("add", ifname=name, kind="veth", mtu=mtu, peer=peer)

    _route(space, f"create veth {name} to {interface}", make)


def set_link(space: int, index: int, what: str, **values: object) -> None:
    """Set a link's attributes as pyroute2 names them (mtu, address, master, state, …)."""
    _route(space, f"set {what}", lambda route: route.link("set", index=index, **values))


def set_port(space: int, index: int, what: str, **flags: int) -> None:
    """Set a bridge port's flags as pyroute2 names them (learning, unicast_flood, …)."""
    _route(
        space, f"set bridge port {what}", lambda route: route.brport("set", index=index, **flags)
    )


def mark(space: int, index: int, what: str) -> None:
    """Put our alias on a link."""
    set_link(space, index, f"alias of {what}", ifalias=ALIAS)


def _route(space: int, what: str, work: Callable[[Any], T]) -> T:
    def run() -> T:
        with IPRoute() as route:
            return work(route)

    try:
        return inside(space, what, run)
    except NetlinkError as error:
        raise KernelRefused(f"{what}: {error.args[-1]}", int(error.code)) from error
