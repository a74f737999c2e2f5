"""Shell. How this host itself asks for the mesh's names.

    auto   by systemd-resolved where it runs: only the mesh's names come to us (the default)
    file   by /etc/resolv.conf, our server ahead of those that are there
    off    not at all; `meshnet dns query` and asking the node's address go on working

What was set is looked at again now and then, like all that is ours on a host, and goes with the
tunnel's link or with `meshnet down`.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Sequence

from meshnet.linux import resolvconf, resolved
from meshnet.linux.resolved import LinkDns
from meshnet.wire.local import HostDnsMode

log = logging.getLogger(__name__)

LOOK_AGAIN = 30.0
"""Seconds after which the host is looked at though we want what we wanted."""


class HostDns:
    """This host's own questions. Its methods wait for other processes: call them in a thread."""

    def __init__(self, mode: HostDnsMode, link: str) -> None:
        self.mode = mode
        self.state = ""
        """What the host asks us by, for people; '' when it does not."""
        self._link = link
        self._kept: tuple[str, LinkDns] | None = None
        self._looked = 0.0

    def choose(self, mode: HostDnsMode) -> None:
        """Take another mode, or look at once; `keep` makes it so."""
        self.mode, self._kept = mode, None

    def is_due(self, wish: LinkDns) -> bool:
        """Tell whether `keep` has something to look at."""
        now = time.monotonic()
        return self._kept != (self.mode, wish) or now - self._looked > LOOK_AGAIN

    def keep(self, wish: LinkDns) -> None:
        """Make it so. A MeshnetError says why not; it is tried again at the next call."""
        self._kept, self.state = None, ""
        if self.mode != "file" and resolvconf.remove():
            log.info("%s: our lines are removed", resolvconf.PATH)
        if self.mode == "file":
            self.state = self._by_file([str(server) for server in wish.servers])
        elif resolved.is_running():
            try:
                index = socket.if_nametoindex(self._link)
            except OSError:
                log.debug("systemd-resolved is told when there is a %s", self._link)
                return
            self.state = _by_resolved(index, wish if self.mode == "auto" else LinkDns())
        self._kept, self._looked = (self.mode, wish), time.monotonic()

    def _by_file(self, servers: Sequence[str]) -> str:
        if resolvconf.put(servers):
            log.info("%s: nameserver %s is first", resolvconf.PATH, ", ".join(servers))
        return str(resolvconf.PATH)


def _by_resolved(index: int, wish: LinkDns) -> str:
    if not wish.servers:
        if resolved.read(index) != wish:
            resolved.revert(index)
        return ""
    if resolved.route(index, wish):
        log.info("systemd-resolved: %s is asked here", ", ".join(wish.domains))
    return "systemd-resolved"
