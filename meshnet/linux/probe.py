"""Driver. Probes by hand: ICMP echoes through one device, and a knock on a UDP port.

An echo leaves by the device whether or not a route leads there, so a missing route and a dead
tunnel can be told apart. With its don't-fragment bit set and the path's known MTU ignored
(IP_PMTUDISC_PROBE, ip(7)), an echo of full size passes or it does not.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from ipaddress import IPv4Address

ECHO, REPLY = 8, 0
HEADERS = 28
IP_MTU_DISCOVER, PMTUDISC_PROBE = 10, 3
EVERY = 0.3
_ICMP = struct.Struct("!BBHHH")


def echo(address: IPv4Address, source: IPv4Address, device: str, size: int, wait: float) -> bool:
    """Send echoes of `size` bytes, IP header included, until one is answered or `wait` is over."""
    identity = int.from_bytes(os.urandom(2), "big")
    try:
        with _open(source, device) as sock:
            return _ask(sock, address, identity, size, time.monotonic() + wait)
    except OSError:
        return False


def _open(source: IPv4Address, device: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        sock.bind((str(source), 0))
    except OSError:
        sock.close()
        raise
    return sock


def _ask(
    sock: socket.socket, address: IPv4Address, identity: int, size: int, deadline: float
) -> bool:
    sequence = 0
    while (left := deadline - time.monotonic()) > 0:
        sequence += 1
        sock.sendto(_packet(identity, sequence, size - HEADERS), (str(address), 0))
        until = time.monotonic() + min(EVERY, left)
        while (pause := until - time.monotonic()) > 0:
            if select.select([sock], [], [], pause)[0] and _answers(sock, address, identity):
                return True
    return False


def _answers(sock: socket.socket, address: IPv4Address, identity: int) -> bool:
    data, (sender, _) = sock.recvfrom(65536)
    offset = (data[0] & 15) * 4
    kind, _, _, theirs, _ = _ICMP.unpack_from(data, offset)
    return bool(kind == REPLY and theirs == identity and sender == str(address))


def _packet(identity: int, sequence: int, length: int) -> bytes:
    body = bytes(max(0, length))
    plain = _ICMP.pack(ECHO, 0, 0, identity, sequence) + body
    return _ICMP.pack(ECHO, 0, _checksum(plain), identity, sequence) + body


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(word for (word,) in struct.iter_unpack("!H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def largest_echo(address: IPv4Address, source: IPv4Address, device: str, size: int) -> int:
    """Return the largest size below `size` that is answered, to 8 bytes; 0 when none is."""
    low, high = 0, size
    while high - low > 8:
        middle = (low + high) // 2
        if echo(address, source, device, max(HEADERS, middle), EVERY * 2):
            low = middle
        else:
            high = middle
    return low


def is_closed(address: IPv4Address, port: int) -> bool:
    """Say whether a UDP port answers that nobody listens there; silence is no such answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        try:
            sock.connect((str(address), port))
            sock.send(b"")
            sock.recv(1)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
