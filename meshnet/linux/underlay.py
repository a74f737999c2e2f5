"""Driver. The underlay: addresses of this host that are not ours, and what their links carry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from meshnet.linux import rtnetlink as rt
from meshnet.linux.netlink import Netlink
from meshnet.model.addresses import Interface
from meshnet.plan.state import ALIAS

TUNNELS = frozenset({"wireguard", "tun", "vxlan"})
CONTAINER_BRIDGE = re.compile(
    r"docker\d+|docker_gwbridge|br-[0-9a-f]{12}|podman\d+|cni\d+|virbr\d+"
)
"""Bridges that engines make for containers of this host: nobody else can reach us there."""


@dataclass(frozen=True, slots=True)
class UnderlayAddress:
    """One address of the host, and the name and MTU (bytes) of its link."""

    link: str
    mtu: int
    address: Interface


def underlay() -> list[UnderlayAddress]:
    """Return global addresses on links that are up and not ours, sorted by link and address.

    Tunnels are left out, for a tunnel in a tunnel costs MTU and hides failures, and so are bridges
    that only lead to containers of this host.
    """
    with Netlink() as netlink:
        links = netlink.dump(rt.dump_links(), "dump links")
        bodies = netlink.dump(rt.dump_addresses(), "dump addresses")
    usable = {link[0]: link for link in map(_link, links) if link is not None}
    found = [
        UnderlayAddress(usable[index][1], usable[index][2], address)
        for index, address in map(_address, bodies)
        if index in usable and not address.is_link_local and not address.is_loopback
    ]
    return sorted(found, key=lambda item: (item.link, str(item.address)))


@lru_cache(maxsize=256)
def _link(body: bytes) -> tuple[int, str, int] | None:
    """Return index, name and MTU of a link that leads somewhere. The same links are looked at
    again with every container that an engine starts, and most are as they were."""
    link = rt.parse_link(body)
    return (link.index, link.name, link.mtu) if _is_underlay(link) else None


_address = lru_cache(maxsize=256)(rt.parse_address)


def _is_underlay(link: rt.Link) -> bool:
    return (
        link.up
        and link.alias != ALIAS
        and link.kind not in TUNNELS
        and not CONTAINER_BRIDGE.fullmatch(link.name)
    )
