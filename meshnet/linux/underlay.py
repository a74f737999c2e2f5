"""Driver. The underlay: addresses of this host that are not ours, and what their links carry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any

from pyroute2 import IPRoute

from meshnet.model.addresses import Interface
from meshnet.plan.state import ALIAS

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
SCOPE_UNIVERSE = 0
TUNNELS = frozenset({"wireguard", "tun", "vxlan"})
CONTAINER_BRIDGE = re.compile(
    r"docker\d+|docker_gwbridge|br-[0-9a-f]{12}|podman\d+|cni\d+|virbr\d+"
)
"""Bridges that engines make for containers of this host: nobody else can reach us there."""


@dataclass(frozen=True, slots=True)
class UnderlayAddress:
    """One address of the host, its link's name, MTU in bytes, and kind ('' for hardware)."""

    link: str
    kind: str
    mtu: int
    address: Interface


def underlay() -> list[UnderlayAddress]:
    """Return global addresses on links that are up and not ours, sorted by link and address.

    Tunnels are left out, for a tunnel in a tunnel costs MTU and hides failures, and so are bridges
    that only lead to containers of this host.
    """
    with IPRoute() as route:
        links = {
            message["index"]: message
            for message in route.get_links()
            if message["flags"] & IFF_UP
            and not message["flags"] & IFF_LOOPBACK
            and message.get_attr("IFLA_IFALIAS") != ALIAS
            and not CONTAINER_BRIDGE.fullmatch(message.get_attr("IFLA_IFNAME"))
        }
        found = [
            _address(links[message["index"]], message)
            for message in route.get_addr()
            if message["index"] in links and message["scope"] == SCOPE_UNIVERSE
        ]
    usable = [item for item in found if item.kind not in TUNNELS]
    return sorted(usable, key=lambda item: (item.link, str(item.address)))


def _address(link: Any, message: Any) -> UnderlayAddress:
    info = link.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info else ""
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return UnderlayAddress(
        link=link.get_attr("IFLA_IFNAME"),
        kind=kind or "",
        mtu=link.get_attr("IFLA_MTU"),
        address=ip_interface(f"{text}/{message['prefixlen']}"),
    )
