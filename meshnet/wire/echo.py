"""Pure. ICMP echo (RFC 792): the kernel of a host sends it back, whatever its programs do.

offset  0  type            8 request, 0 reply
        1  code            0
        2  checksum        of all of it (RFC 1071)
        4  identifier      IDENTIFIER
        6  sequence        0: the data says what it belongs to
        8  data
"""

from __future__ import annotations

import struct

from meshnet.errors import BadInput

REQUEST, REPLY = 8, 0
IDENTIFIER = 0x6D6E
LAYOUT = struct.Struct(">BBHHH")


def pack(data: bytes) -> bytes:
    """Return a request; an IPv4 header goes before it."""
    head = LAYOUT.pack(REQUEST, 0, 0, IDENTIFIER, 0)
    return LAYOUT.pack(REQUEST, 0, checksum(head + data), IDENTIFIER, 0) + data


def parse(packet: bytes) -> bytes:
    """Return the data of a reply to one of our requests, given with its IPv4 header.

    The kernel has checked lengths and checksums. Raise BadInput for anything else.
    """
    head = 4 * (packet[0] & 0x0F) if packet else 0
    if len(packet) < head + LAYOUT.size:
        raise BadInput(f"no ICMP packet has {len(packet)} bytes")
    kind, code, _, identifier, _ = LAYOUT.unpack_from(packet, head)
    if (kind, code, identifier) != (REPLY, 0, IDENTIFIER):
        raise BadInput("not the reply to an echo of ours")
    return packet[head + LAYOUT.size :]


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    words: tuple[int, ...] = struct.unpack(f">{len(padded) // 2}H", padded)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
