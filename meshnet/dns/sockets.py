"""Shell. Sockets for listeners, in our own network namespace or another.

A socket belongs for ever to the namespace it was made in, whoever holds it later. So a thread that
lives for this alone enters the namespace, makes the sockets and ends. Addresses may come later than
the sockets (IP_FREEBIND).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from meshnet.errors import Unavailable

OWN = Path("/proc/thread-self/ns/net")
NAMED = Path("/run/netns")

CLONE_NEWNET = 0x40000000
IP_FREEBIND, IPV6_FREEBIND = 15, 78
RECEIVE_BUFFER = 1 << 20
"""Room for a burst of some thousand queries."""

BACKLOG = 128


def namespace_path(netns: str | None) -> Path:
    """Return the file of a namespace given by path, by name, or None for our own."""
    if netns is None:
        return OWN
    return Path(netns) if "/" in netns else NAMED / netns


def namespace_id(netns: str | None) -> str:
    """Return what tells a namespace from all others that live; raise Unavailable."""
    try:
        return str(namespace_path(netns).stat().st_ino)
    except OSError as error:
        raise Unavailable(f"network namespace {netns}: {error.strerror}") from error


async def open_sockets(
    address: str, port: int, netns: str | None
) -> tuple[socket.socket, socket.socket]:
    """Return a UDP and a TCP socket at an address; raise Unavailable when it cannot be had."""
    if netns is None:
        return _open(address, port)
    with ThreadPoolExecutor(1) as thread:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(thread, _open_inside, address, port, netns)


def _open_inside(address: str, port: int, netns: str) -> tuple[socket.socket, socket.socket]:
    library = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(namespace_path(netns), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"network namespace {netns}: {error.strerror}") from error
    try:
        if library.setns(descriptor, CLONE_NEWNET):
            reason = os.strerror(ctypes.get_errno())
            raise Unavailable(f"network namespace {netns}: {reason}")
    finally:
        os.close(descriptor)
    return _open(address, port)


def _open(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    udp = _bound(address, port, socket.SOCK_DGRAM)
    try:
        tcp = _bound(address, port, socket.SOCK_STREAM)
    except Unavailable:
        udp.close()
        raise
    tcp.listen(BACKLOG)
    return udp, tcp


def _bound(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    six = ":" in address
    where = f"DNS at {address} port {port}"
    try:
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind)
    except OSError as error:
        raise Unavailable(f"{where}: {error.strerror}") from error
    try:
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setblocking(False)
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        raise Unavailable(f"{where}: {error.strerror}") from error
    return sock
