"""Driver. Events: one multicast netlink socket for each namespace, all behind one epoll descriptor.

The kernel tells of every change of links, addresses, routes, neighbours and FDB, and of nft. Only
that something changed is passed on, since what it is now has to be read anyway, and of FDB and
neighbours, of which there are thousands, which of them. Left out is what
changes all the time and is nobody's drift: neighbours that the kernel resolves by itself (it does
so on bridges, not on VXLAN devices), and routes of other protocols than ours.

A socket that overflows (ENOBUFS) has lost events: then everything may have changed.
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import suppress

from meshnet.errors import KernelRefused
from meshnet.linux import rtnetlink as rt
from meshnet.linux.entries import MOST_SINGLY, Key
from meshnet.linux.netlink import NETLINK_ROUTE, open_socket, split_messages
from meshnet.linux.port import Event
from meshnet.plan.state import ROUTE_PROTOCOL

NETLINK_NETFILTER = 12

_LINK, _NEIGHBOUR, _ADDRESS4, _ROUTE4, _ADDRESS6, _ROUTE6, _NFTABLES = 1, 3, 5, 7, 9, 11, 7

_IN_HOST = (_LINK, _ADDRESS4, _ROUTE4, _ADDRESS6, _ROUTE6)
_IN_NETWORK = (*_IN_HOST, _NEIGHBOUR)

_BUFFER_BYTES = 8 * 2**20
"""Room for some ten thousand events, since a change of a whole network comes in one burst."""
_RECEIVE_BYTES = 65_536
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
_SETTLE_SECONDS = 0.02
REST_SECONDS = 0.1
"""From one event to the next. An engine changes links ten times for a container, and whoever looks
at them meanwhile waits for the kernel, and keeps the engine waiting."""


class Listener:
    """Collects events from all namespaces given to it. Namespaces may come and go in any thread.

    `doubt` is called with a network and what has changed there: some entries, or (None) anything.
    """

    def __init__(self, home: int, doubt: Callable[[str, Collection[Key] | None], None]) -> None:
        self._doubt = doubt
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._sockets: dict[int, tuple[str | None, socket.socket]] = {}
        self._minded: dict[str, int] = {}
        self._add(None, NETLINK_ROUTE, home, _IN_HOST)
        with suppress(OSError):  # a kernel without nf_tables has no events of it
            self._add(None, NETLINK_NETFILTER, home, (_NFTABLES,))

    def watch(self, network: str, netns: int) -> None:
        """Listen in a network's namespace, too."""
        try:
            self._add(network, NETLINK_ROUTE, netns, _IN_NETWORK)
        except OSError as error:
            code = error.errno or errno.EIO
            raise KernelRefused(f"listen to network {network}: {error.strerror}", code) from error

    def mind(self, network: str, index: int) -> None:
        """Tell of every neighbour on this link of a network, the kernel's own included."""
        self._minded[network] = index

    def forget(self, network: str) -> None:
        """Let a network's namespace go."""
        with self._lock:
            for number, (name, one) in list(self._sockets.items()):
                if name == network:
                    del self._sockets[number]
                    self._epoll.unregister(number)
                    one.close()

    def fileno(self) -> int:
        """Return a descriptor that is readable while there are events."""
        return self._epoll.fileno()

    def has_news(self, network: str) -> bool:
        """Say whether something has come from a network that has not been told yet."""
        with self._lock:
            return any(self._sockets[number][0] == network for number, _ in self._epoll.poll(0))

    def drain(self) -> Event | None:
        """Return all that came in as one event, None when nothing of interest did."""
        host, lost = False, False
        networks: set[str] = set()
        with self._lock:
            for number, _ in self._epoll.poll(0):
                network, one = self._sockets[number]
                changed, overflow = _drain(one, self._minded.get(network or "", 0))
                lost |= overflow
                if changed is not None and not changed:
                    continue
                if network is None:
                    host = True
                else:
                    networks.add(network)
                    self._doubt(network, changed)
        return Event(host, frozenset(networks), lost) if host or networks or lost else None

    async def events(self) -> AsyncIterator[Event]:
        """Yield events; a burst is one event, and a long one is one every REST_SECONDS."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self.fileno(), readable.set)
        try:
            while True:
                await readable.wait()
                # The burst that the first message begins is waited for without being polled.
                loop.remove_reader(self.fileno())
                await asyncio.sleep(_SETTLE_SECONDS)
                event = self.drain()
                if event is not None:
                    yield event
                    await asyncio.sleep(REST_SECONDS)
                readable.clear()
                loop.add_reader(self.fileno(), readable.set)
        finally:
            if not self._epoll.closed:
                loop.remove_reader(self.fileno())

    def close(self) -> None:
        with self._lock:
            for _, one in self._sockets.values():
                one.close()
            self._sockets.clear()
            self._epoll.close()

    def _add(self, network: str | None, protocol: int, netns: int, groups: Iterable[int]) -> None:
        one = open_socket(protocol, netns)
        try:
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            one.bind((0, 0))
            for group in groups:
                one.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, struct.pack("=I", group))
        except BaseException:
            one.close()
            raise
        with self._lock:
            self._sockets[one.fileno()] = network, one
            self._epoll.register(one.fileno(), select.EPOLLIN)


def _drain(one: socket.socket, minded: int) -> tuple[set[Key] | None, bool]:
    """Read a socket empty; return (entries that changed, None for anything; something was lost)."""
    changed: set[Key] | None = set()
    lost = False
    while True:
        try:
            data = one.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return changed, lost
        except OSError:
            lost = True
            continue
        if changed is not None:
            changed = _changed(one.proto, data, minded, changed)


def _changed(protocol: int, data: bytes, minded: int, known: set[Key]) -> set[Key] | None:
    """Return the entries that changed, and those known before; None for anything else or many."""
    if protocol != NETLINK_ROUTE:
        return None
    for kind, _, _, body in split_messages(data):
        if not _matters(kind, body, minded):
            continue
        key = _entry(kind, body, minded)
        if key is None or len(known) >= MOST_SINGLY:
            return None
        known.add(key)
    return known


def _entry(kind: int, body: bytes, minded: int) -> Key | None:
    """Return what names the entry that a message is about; None if not one of the minded link."""
    if kind not in (rt.RTM_NEWNEIGH, rt.RTM_DELNEIGH):
        return None
    family, index, _ = rt.header_of_neighbour(body)
    if index != minded:
        return None
    entry = rt.parse_neighbour(body)
    if family != rt.AF_BRIDGE:
        return entry.address
    return entry.mac if entry.flags & rt.NTF_SELF and entry.mac != rt.FLOOD_MAC else None


def _matters(kind: int, body: bytes, minded: int) -> bool:
    if kind in (rt.RTM_NEWROUTE, rt.RTM_DELROUTE):
        return rt.protocol_of_route(body) == ROUTE_PROTOCOL
    if kind in (rt.RTM_NEWNEIGH, rt.RTM_DELNEIGH):
        family, index, state = rt.header_of_neighbour(body)
        return family == rt.AF_BRIDGE or index == minded or bool(state & rt.NUD_PERMANENT)
    return True
