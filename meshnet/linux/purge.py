"""Driver. Taking away all that carries our mark, with no wish and no memory to go by.

In the order of the plan's removals: networks with their ports first, the tunnel after them, the
guard last, so that nothing leaves in clear on the way. What cannot be removed does not keep the
rest from going; it is named at the end.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from meshnet.errors import KernelRefused, MeshnetError
from meshnet.linux import rtnetlink as rt
from meshnet.linux.guard import GuardTable
from meshnet.linux.namespace import Namespace
from meshnet.linux.spaces import Spaces
from meshnet.linux.wireguard import WireGuard
from meshnet.plan.state import ALIAS, NFT_TABLE

TUNNELS = frozenset({"wireguard", "tun"})


class Purge:
    """One purge of one host."""

    def __init__(
        self, host: Namespace, wireguard: WireGuard, guard: GuardTable, spaces: Spaces
    ) -> None:
        self._host = host
        self._wireguard = wireguard
        self._guard = guard
        self._spaces = spaces
        self._lines: list[str] = []
        self._failures: list[str] = []

    def run(self) -> list[str]:
        """Remove everything; return what was removed, or raise KernelRefused for what was not."""
        for network in self._spaces.networks():
            self._try(self._remove_network, network)
        for link in self._host.links():
            if link.alias == ALIAS:
                self._try(self._remove_link, link)
        for route in self._host.all_routes():
            self._try(self._remove_route, route)
        self._try(self._remove_guard, None)
        if self._failures:
            raise KernelRefused(
                "not everything could be removed: " + "; ".join(self._failures),
                errno.EBUSY,
                "Run it again as root; what was removed stays removed.",
            )
        return self._lines

    def _try(self, remove: Callable[..., None], what: object) -> None:
        try:
            remove(what)
        except MeshnetError as error:
            self._failures.append(error.message)

    def _remove_network(self, network: str) -> None:
        links = self._spaces.remove(network)
        for link in links:
            if link.kind == "veth":
                self._lines.append(f"removed port {link.name} of network {network}")
        self._lines.append(f"removed network {network}")

    def _remove_link(self, link: rt.Link) -> None:
        if link.kind in TUNNELS:
            self._wireguard.remove(link.name)
            self._lines.append(f"removed WireGuard device {link.name}")
        elif self._host.link(link.name) is not None:
            self._host.delete(link)
            self._lines.append(f"removed link {link.name}")

    def _remove_route(self, route: rt.Route) -> None:
        message = rt.pack_route(route.index, route.prefix, remove=True)
        what = f"remove route {route.prefix}"
        self._host.netlink.request([message], [what], ignore=(errno.ESRCH,))
        self._lines.append(f"removed route {route.prefix}")

    def _remove_guard(self, _: object) -> None:
        if self._guard.remove():
            self._lines.append(f"removed nft table inet {NFT_TABLE}")
