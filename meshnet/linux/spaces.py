"""Driver. The networks' namespaces: found by name, kept open, named again when the name is gone.

    /run/netns/meshnet-NET ──▶ Space (descriptor, netlink socket) ──▶ br0, vx0, ports

A namespace whose name somebody has removed lives on for as long as we hold it, with all traffic
flowing. It must not be lost sight of: while it lives, the kernel refuses a second VXLAN device
with its VNI. So `find` still returns it, and `make` names it again.

Context: the kernel takes a link away in a millisecond, and then waits for some twenty more until
nobody can still be using it, for one link after the other. Choice: links go together, as a group,
and a thread does the waiting. Price: that a link is gone has to be seen, since the answer to its
removal comes later. Once it is not seen any more, its name and its place are free, and the kernel
finishes by itself, whatever becomes of us.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

from meshnet.errors import KernelRefused
from meshnet.linux import netns
from meshnet.linux import rtnetlink as rt
from meshnet.linux.entries import MOST_SINGLY, Entries, Key, read_again, read_entries
from meshnet.linux.namespace import Namespace
from meshnet.linux.netlink import Netlink
from meshnet.linux.source_guard import SourceGuard
from meshnet.plan.state import NETNS_PREFIX

LEAVING = 110
"""The group of links that are being removed; the others in a network's namespace are in none."""

LOOK_AGAIN = 0.001
"""Seconds from one look whether links are gone to the next."""

BELIEVED_SECONDS = 30.0
"""Seconds for which silence about a namespace is believed: an event may be lost one day."""

_OURS = frozenset({"vxlan", "bridge", "veth"})
"""Kinds of links there are in a network's namespace; others in it are the kernel's own."""


class Space(Namespace):
    """A network's namespace, held open."""

    def __init__(self, network: str, descriptor: int) -> None:
        try:
            netlink = Netlink(netns=descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        super().__init__(descriptor, netlink, f"network {network}")
        self.network = network
        self.inode = os.fstat(descriptor).st_ino
        self.source_guard = SourceGuard(descriptor)
        self._since = object()
        self._doubted: deque[Key] = deque()
        self._kept: tuple[object, int, float, Entries] | None = None

    def entries(self, vxlan: int) -> Entries:
        """Read FDB and neighbours; `vxlan` is the index of the VXLAN device, 0 where there is none.

        What changes while they are read makes what was read doubtful again.
        """
        since, now = self._since, time.monotonic()
        self._doubted.clear()
        found = read_entries(self.netlink, vxlan)
        self._kept = since, vxlan, now, found
        return found

    def known_entries(self, vxlan: int) -> Entries:
        """Return what was read last, and of that read again what somebody has told of since."""
        kept, self._kept = self._kept, None
        if kept is not None:
            since, index, at, found = kept
            fresh = time.monotonic() - at < BELIEVED_SECONDS
            few = len(self._doubted) <= MOST_SINGLY
            if since is self._since and index == vxlan and fresh and few:
                with suppress(KernelRefused):  # a kernel before 5.0 shows no single entries
                    found = self._read_again(vxlan, found)
                    self._kept = since, index, at, found
                    return found
        return self.entries(vxlan)

    def _read_again(self, vxlan: int, known: Entries) -> Entries:
        keys = set()
        with suppress(IndexError):
            while True:
                keys.add(self._doubted.popleft())
        return read_again(self.netlink, vxlan, known, keys) if keys else known

    def doubt(self, keys: Collection[Key] | None = None) -> None:
        """Do not believe what was read of these entries before, nor (None) of any.

        Called from any thread, at any time.
        """
        if keys is None:
            self._since = object()
        else:
            self._doubted.extend(keys)

    def empty(self) -> list[rt.Link]:
        """Remove all links of ours; return what was there. The far ends of ports go with them."""
        links = [link for link in self.links() if link.kind in _OURS]
        self.remove(links)
        return links

    def remove(self, links: Collection[rt.Link]) -> None:
        """Remove links together; return when they are not seen any more, as others may be."""
        if not links:
            return
        threads = ThreadPoolExecutor(1, "removal")
        removal = threads.submit(self._remove, Netlink(netns=self.descriptor), links)
        threads.shutdown(wait=False)
        while not wait([removal], LOOK_AGAIN).done and any(map(self._is_there, links)):
            continue
        if removal.done():
            removal.result()

    def _remove(self, netlink: Netlink, links: Collection[rt.Link]) -> None:
        messages = [rt.pack_group(link.index, LEAVING) for link in links]
        what = f"remove {len(links)} links in {self.what}"
        with netlink:
            netlink.request([*messages, rt.delete_group(LEAVING)], lambda _: what, (errno.ENODEV,))

    def _is_there(self, link: rt.Link) -> bool:
        found = self.link(link.name)
        return found is not None and found.index == link.index

    def close(self) -> None:
        self.source_guard.close()
        self.netlink.close()
        os.close(self.descriptor)


class Spaces:
    """All of them, by network. `watch` and `forget` are told of every one taken up and let go."""

    def __init__(self, watch: Callable[[Space], None], forget: Callable[[Space], None]) -> None:
        self._held: dict[str, Space] = {}
        self._watch = watch
        self._forget = forget

    def networks(self) -> list[str]:
        """Return the networks that have a name or a namespace, sorted."""
        named = {name.removeprefix(NETNS_PREFIX) for name in netns.named(NETNS_PREFIX)}
        return sorted(named | self._held.keys())

    def find(self, network: str) -> Space | None:
        """Return the network's namespace as the name leads to it now, else the one held."""
        held = self._held.get(network)
        descriptor = netns.open_named(NETNS_PREFIX + network)
        if descriptor is None:
            return held
        if held is not None and held.inode == os.fstat(descriptor).st_ino:
            os.close(descriptor)
            return held
        if held is not None:
            held.empty()
            self._drop(held)
        return self._take(network, descriptor)

    def is_named(self, network: str) -> bool:
        """Say whether the network's namespace can be entered by its name."""
        descriptor = netns.open_named(NETNS_PREFIX + network)
        if descriptor is None:
            return False
        os.close(descriptor)
        return True

    def make(self, network: str) -> Space:
        """Return the network's namespace, made or named again where that is missing."""
        space = self.find(network)
        name = NETNS_PREFIX + network
        if space is None:
            return self._take(network, netns.create(name))
        if not self.is_named(network):
            netns.bind(name, space.descriptor)
        return space

    def remove(self, network: str) -> list[rt.Link]:
        """Remove the namespace and every link in it; return these links."""
        space = self.find(network)
        links = [] if space is None else space.empty()
        netns.remove(NETNS_PREFIX + network)
        if space is not None:
            self._drop(space)
        return links

    def doubt(self, network: str, keys: Collection[Key] | None = None) -> None:
        """Note that these entries of a network, or (None) anything there, may have changed."""
        space = self._held.get(network)
        if space is not None:
            space.doubt(keys)

    def doubt_all(self) -> None:
        """Note that anything may have changed anywhere."""
        for space in list(self._held.values()):
            space.doubt()

    def announce(self) -> None:
        """Tell `watch` of all that are held already."""
        for space in self._held.values():
            self._watch(space)

    def close(self) -> None:
        """Let go of all; nothing in the kernel changes."""
        for space in list(self._held.values()):
            self._drop(space)

    def _take(self, network: str, descriptor: int) -> Space:
        space = self._held[network] = Space(network, descriptor)
        self._watch(space)
        return space

    def _drop(self, space: Space) -> None:
        del self._held[space.network]
        self._forget(space)
        space.close()
