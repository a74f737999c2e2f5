"""Pure. Ethernet frames byte by byte, genuine and forged: echo requests, ARP, ND, VXLAN.

Headers are those of RFC 791, 826, 4861, 7348 and 8200.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from meshnet.model.addresses import Address

ALL_NODES = IPv6Address("ff02::1")
VXLAN_PORT = 14789


def ethernet(source: str, target: str, kind: int, payload: bytes) -> bytes:
    """Return a frame of at least 60 bytes."""
    head = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in (target, source))
    return (head + kind.to_bytes(2, "big") + payload).ljust(60, b"\0")


def echo(mac: str, to: str, source: Address, target: Address, data: bytes = b"forged" * 6) -> bytes:
    """Return an echo request."""
    kind = 8 if source.version == 4 else 128
    body = struct.pack("!BBHHH", kind, 0, 0, 7, 7) + data
    return packet(mac, to, source, target, 1 if source.version == 4 else 58, body)


def neighbour_advertisement(mac: str, to: str, source: Address, target: Address) -> bytes:
    """Return an advertisement, solicited and overriding, that `target` is at `mac`."""
    link = b"\2\1" + bytes.fromhex(mac.replace(":", ""))
    body = struct.pack("!BBHI", 136, 0, 0, 0x60000000) + target.packed + link
    return packet(mac, to, source, ALL_NODES, 58, body, hops=255)


def router_advertisement(mac: str, to: str) -> bytes:
    """Return an advertisement of a default router."""
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    return packet(mac, to, IPv6Address("fe80::5"), ALL_NODES, 58, body, hops=255)


def arp(mac: str, to: str, sender: IPv4Address, said: str = "") -> bytes:
    """Return an ARP reply in which `sender` is at the MAC that is `said`, or at `mac`."""
    known = bytes.fromhex((said or mac).replace(":", ""))
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    return ethernet(mac, to, 0x0806, head + known + sender.packed + bytes(6) + sender.packed)


def vxlan(mac: str, to: str, source: Address, target: Address, vni: int, inner: bytes) -> bytes:
    """Return a frame wrapped in VXLAN, in UDP without a checksum."""
    payload = vxlan_header(vni) + inner
    udp = struct.pack("!HHHH", 40000, VXLAN_PORT, 8 + len(payload), 0)
    return packet(mac, to, source, target, 17, udp + payload)


def vxlan_header(vni: int) -> bytes:
    return struct.pack("!II", 0x08000000, vni << 8)


def tagged(frame: bytes, vlan: int = 7) -> bytes:
    """Put a VLAN tag into a frame (IEEE 802.1Q)."""
    return frame[:12] + struct.pack("!HH", 0x8100, vlan) + frame[12:]


def packet(
    mac: str, to: str, source: Address, target: Address, protocol: int, body: bytes, hops: int = 64
) -> bytes:
    """Return an IP packet in a frame; ICMP and ICMPv6 get their checksum."""
    if isinstance(source, IPv4Address):
        if protocol == 1:
            body = _summed(body, b"")
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, hops, protocol, 0)
        head = _with_sum(head + source.packed + target.packed, 10)
        return ethernet(mac, to, 0x0800, head + body)
    if protocol == 58:
        pseudo = source.packed + target.packed + struct.pack("!II", len(body), protocol)
        body = _summed(body, pseudo)
    head = struct.pack("!IHBB", 6 << 28, len(body), protocol, hops)
    return ethernet(mac, to, 0x86DD, head + source.packed + target.packed + body)


def _summed(body: bytes, pseudo: bytes) -> bytes:
    return body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]


def _with_sum(head: bytes, at: int) -> bytes:
    return head[:at] + struct.pack("!H", _checksum(head)) + head[at + 2 :]


def _checksum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(word for (word,) in struct.iter_unpack("!H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
