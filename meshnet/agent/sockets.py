"""Shell. Sockets on the node's IPv4 mesh address: UDP for probes, TCP for the exchange of facts.

They are opened before the address is there (IP_FREEBIND), so no order between them and the tunnel
has to be kept. A probe that reaches a host whose agent is down comes back as ICMP "port
unreachable" (RFC 1122, section 3.2.2.1) with the probe inside: that is told apart, as `bounced`.
Where an agent is there and does not get to it, its kernel can be asked to send the probe back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from typing import Protocol

from meshnet.errors import BadInput
from meshnet.wire import echo

log = logging.getLogger(__name__)

AGENT_PORT = 7420
LINE_LIMIT = 4 * 1024 * 1024
IP_FREEBIND = 15
IP_RECVERR = 11
IP_MTU_DISCOVER, PMTUDISC_PROBE = 10, 3
ORIGIN_ICMP, UNREACHABLE, PORT = 2, 3, 3
SOL_RAW, ICMP_FILTER = 255, 1
NO_BUT_REPLIES = ~(1 << echo.REPLY) & 0xFFFFFFFF
"""A bit for each type of ICMP that is not wanted (raw(7))."""
DRAIN = 256

Receive = Callable[[bytes, str], None]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Datagrams(Protocol):
    """An open UDP socket."""

    def send(self, data: bytes, address: str) -> None:
        """Send to a mesh address; what cannot be sent is lost, as on any network."""
        ...

    def echo(self, data: bytes, address: str) -> None:
        """Have the kernel at a mesh address send this back: then it has bounced."""
        ...

    def close(self) -> None: ...


class Listener(Protocol):
    """An open TCP listener."""

    def close(self) -> None: ...


class Sockets(Protocol):
    """The mesh as the agent's own traffic sees it."""

    def datagrams(self, address: IPv4Address, received: Receive, bounced: Receive) -> Datagrams:
        """Open UDP on our mesh address; both callbacks get data and the peer's address."""
        ...

    async def listen(self, address: IPv4Address, serve: Serve) -> Listener:
        """Serve TCP on our mesh address."""
        ...

    async def connect(self, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open TCP to a peer's mesh address; raise OSError when that fails."""
        ...


class MeshSockets:
    """The sockets of this host."""

    def datagrams(self, address: IPv4Address, received: Receive, bounced: Receive) -> Datagrams:
        return _Udp(address, received, bounced)

    async def listen(self, address: IPv4Address, serve: Serve) -> Listener:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        sock.bind((str(address), AGENT_PORT))
        return await asyncio.start_server(serve, sock=sock, limit=LINE_LIMIT)

    async def connect(self, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(address, AGENT_PORT, limit=LINE_LIMIT)


class _Udp:
    def __init__(self, address: IPv4Address, received: Receive, bounced: Receive) -> None:
        self._received = received
        self._bounced = bounced
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        self._socket.setsockopt(socket.SOL_IP, IP_RECVERR, 1)
        # What is sent may not be cut, and may be larger than the route says: it asks for the size.
        self._socket.setsockopt(socket.SOL_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        self._socket.bind((str(address), AGENT_PORT))
        self._echoes = _raw_icmp(address)
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        if self._echoes is not None:
            asyncio.get_running_loop().add_reader(self._echoes, self._read_echoes, self._echoes)

    def send(self, data: bytes, address: str) -> None:
        # No endpoint yet, no route, a full buffer: all of it is one packet lost.
        with contextlib.suppress(OSError):
            self._socket.sendto(data, (address, AGENT_PORT))

    def echo(self, data: bytes, address: str) -> None:
        if self._echoes is not None:
            with contextlib.suppress(OSError):
                self._echoes.sendto(echo.pack(data), (address, 0))

    def close(self) -> None:
        for one in (self._socket, self._echoes):
            if one is not None:
                asyncio.get_running_loop().remove_reader(one)
                one.close()

    def _read(self) -> None:
        for number in range(DRAIN):
            try:
                data, (address, *_rest) = self._socket.recvfrom(2048)
            except BlockingIOError:
                # Awake for nothing: a sender was told of an error, and what bounced is still here.
                if number == 0:
                    self._read_errors()
                return
            except OSError as error:
                log.debug("probe socket: %s", error)
                self._read_errors()
                continue
            self._received(data, address)

    def _read_errors(self) -> None:
        for _ in range(DRAIN):
            try:
                data, notes, _flags, (address, *_rest) = self._socket.recvmsg(
                    2048, 512, socket.MSG_ERRQUEUE
                )
            except OSError:
                return
            if any(_is_port_unreachable(*note) for note in notes):
                self._bounced(data, address)

    def _read_echoes(self, echoes: socket.socket) -> None:
        for _ in range(DRAIN):
            try:
                packet, (address, *_rest) = echoes.recvfrom(2048)
            except OSError:
                return
            with contextlib.suppress(BadInput):
                self._bounced(echo.parse(packet), address)


def _raw_icmp(address: IPv4Address) -> socket.socket | None:
    """Open ICMP for replies to this address; None where we may not (CAP_NET_RAW)."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    try:
        opened = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
    except PermissionError:
        log.info("no CAP_NET_RAW: a peer whose agent has no time cannot be told from one gone")
        return None
    opened.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
    opened.setsockopt(SOL_RAW, ICMP_FILTER, NO_BUT_REPLIES.to_bytes(4, sys.byteorder))
    opened.bind((str(address), 0))
    return opened


def _is_port_unreachable(level: int, kind: int, data: bytes) -> bool:
    """Read a struct sock_extended_err (ip(7)): errno, origin, type, code, …"""
    if (level, kind) != (socket.SOL_IP, IP_RECVERR) or len(data) < 8:
        return False
    return tuple(data[4:7]) == (ORIGIN_ICMP, UNREACHABLE, PORT)
