"""Driver. One open network namespace: its links, their addresses, and our routes over them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

from meshnet.errors import Conflict, KernelRefused
from meshnet.linux import rtnetlink as rt
from meshnet.linux.netlink import Netlink
from meshnet.model.addresses import Address, Interface, Prefix

Routes = Mapping[Prefix, Address | None]
"""Prefix → gateway, None where the prefix is on the link."""


class Namespace:
    """A namespace, by descriptor and a netlink socket in it. `what` names it in errors."""

    def __init__(self, descriptor: int, netlink: Netlink, what: str) -> None:
        self.descriptor = descriptor
        self.netlink = netlink
        self.what = what

    def links(self) -> list[rt.Link]:
        """Return all links, by index."""
        bodies = self.netlink.dump(rt.dump_links(), f"dump links of {self.what}")
        return [rt.parse_link(body) for body in bodies]

    def link(self, name: str) -> rt.Link | None:
        """Return a link by name, or None."""
        try:
            (body,) = self.netlink.ask(rt.get_link(name), f"look up {name} in {self.what}")
        except KernelRefused as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return rt.parse_link(body)

    def require(self, name: str) -> rt.Link:
        """Return a link by name; KernelRefused with ENODEV when there is none."""
        link = self.link(name)
        if link is None:
            raise KernelRefused(f"there is no link {name} in {self.what}", errno.ENODEV)
        return link

    def delete(self, link: rt.Link) -> None:
        """Remove a link; none is fine, too."""
        what = f"remove {link.name} in {self.what}"
        self.netlink.request([rt.delete_link(link.index)], [what], ignore=(errno.ENODEV,))

    def addresses(self, index: int) -> frozenset[Interface]:
        """Return a link's addresses, except those that IPv6 makes itself."""
        bodies = self.netlink.dump(rt.dump_addresses(), f"dump addresses of {self.what}")
        found = (rt.parse_address(body) for body in bodies)
        return frozenset(one for at, one in found if at == index and not _is_automatic(one))

    def set_addresses(self, index: int, wanted: frozenset[Interface]) -> None:
        """Make these, and no others, the link's addresses; what is missing comes first."""
        have = self.addresses(index)
        for address in sorted(wanted - have, key=str):
            self.add_address(index, address)
        for address in sorted(have - wanted, key=str):
            self.remove_address(index, address)

    def add_address(self, index: int, address: Interface) -> None:
        """Add an address; it is usable at once."""
        message = rt.pack_address(index, address)
        self.netlink.request([message], [f"add address {address} in {self.what}"])

    def remove_address(self, index: int, address: Interface) -> None:
        """Remove an address; none is fine, too."""
        message = rt.pack_address(index, address, remove=True)
        what = f"remove address {address} in {self.what}"
        self.netlink.request([message], [what], ignore=(errno.EADDRNOTAVAIL, errno.ENODEV))

    def routes(self, index: int) -> dict[Prefix, Address | None]:
        """Return the routes of our protocol over a link."""
        return {route.prefix: route.gateway for route in self.all_routes() if route.index == index}

    def route_mtus(self, index: int) -> dict[Prefix, int]:
        """Return the routes of our protocol over a link with their MTU; 0 is the link's."""
        return {route.prefix: route.mtu for route in self.all_routes() if route.index == index}

    def all_routes(self) -> list[rt.Route]:
        """Return the routes of our protocol."""
        what = f"dump routes of {self.what}"
        found = [
            rt.parse_route(body)
            for family in (socket.AF_INET, socket.AF_INET6)
            for body in self.netlink.dump(rt.dump_routes(family), what)
        ]
        return [route for route in found if route.is_ours]

    def set_routes(self, index: int, wanted: Routes) -> None:
        """Make these, and no others, our routes over a link."""
        have = self.routes(index)
        for prefix, gateway in have.items():
            if prefix not in wanted or wanted[prefix] != gateway:
                self.remove_route(index, prefix)
        for prefix, gateway in wanted.items():
            if prefix not in have or have[prefix] != gateway:
                self.add_route(index, prefix, gateway)

    def add_route(
        self, index: int, prefix: Prefix, gateway: Address | None = None, mtu: int = 0
    ) -> None:
        """Add a route of ours; Conflict when somebody else has one to this prefix.

        One of ours that differs in its MTU gives way: for that moment a wider prefix leads there.
        """
        what = f"add route {prefix} in {self.what}"
        message = rt.pack_route(index, prefix, gateway, mtu=mtu)
        try:
            self.netlink.request([message], [what])
        except KernelRefused as error:
            if error.errno != errno.EEXIST:
                raise
            known = self.route_mtus(index)
            if prefix not in known:
                raise Conflict(
                    f"{what}: there is one that is not ours",
                    f"See `ip route show {prefix}`, and take it away; we try again.",
                ) from error
            if known[prefix] != mtu:
                self.remove_route(index, prefix)
                self.netlink.request([message], [what])

    def remove_route(self, index: int, prefix: Prefix) -> None:
        """Remove a route of ours; none is fine, too."""
        message = rt.pack_route(index, prefix, remove=True)
        what = f"remove route {prefix} in {self.what}"
        self.netlink.request([message], [what], ignore=(errno.ESRCH, errno.ENODEV))


def _is_automatic(address: Interface) -> bool:
    return address.version == 6 and address.ip.is_link_local
