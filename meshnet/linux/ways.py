"""Driver. By which link the kernel would send a packet, all rules and tables considered.

That our route is there does not say that it is used: another program's rule or a longer prefix may
come first. The kernel knows best, so it is asked (RTM_GETROUTE), by pyroute2: one question now and
then, for a person who waits.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from meshnet.model.addresses import Address


def ways(addresses: Iterable[Address]) -> dict[Address, str]:
    """Return the name of the link for each address; '' where there is no way at all."""
    with IPRoute() as route:
        return {address: _way(route, address) for address in addresses}


def _way(route: IPRoute, address: Address) -> str:
    try:
        found = next(iter(route.route("get", dst=str(address))), None)
        index = found.get("oif") if found else None
        link = next(iter(route.get_links(index)), None) if index else None
    except NetlinkError:
        return ""
    return str(link.get("ifname")) if link else ""
