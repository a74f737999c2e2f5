"""Pure. Names and records in wire form, as the zone is compiled, sent and answered.

A name is its labels in lower case with lengths (RFC 1035, section 3.1), so that comparing names
is comparing bytes. What a name owns is one `bytes`: its records one after the other, each without
the owner:

    ┌──────┬───────┬─────┬──────────┬───────┐
    │ type │ class │ TTL │ RDLENGTH │ RDATA │   RFC 1035, section 3.2.1
    └──────┴───────┴─────┴──────────┴───────┘

An answer is then the question's name as a pointer and these bytes. Names inside RDATA are never
compressed. This module is loaded by the DNS process, so it imports next to nothing.
"""

from __future__ import annotations

import struct

from meshnet.errors import BadInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meshnet.model.addresses import Address

A, NS, CNAME, SOA, PTR, TXT, AAAA, SRV, OPT = 1, 2, 5, 6, 12, 16, 28, 33, 41
IXFR, AXFR, ANY = 251, 252, 255
IN = 1

ROOT = b"\0"
IN_ADDR = b"\x07in-addr\x04arpa\0"
IP6 = b"\x03ip6\x04arpa\0"
ARPA = b"\x04arpa\0"
LABEL_MAX, NAME_MAX = 63, 255

_HEAD = struct.Struct(">HHIH")


def wire_name(labels: Iterable[bytes]) -> bytes:
    """Return the wire form of a name in lower case; raise BadInput when it is none."""
    parts = [bytes([len(label)]) + label.lower() for label in labels]
    name = b"".join(parts) + ROOT
    if len(name) > NAME_MAX or not all(1 < len(part) <= LABEL_MAX + 1 for part in parts):
        raise BadInput(f"{name[:80]!r} is not a DNS name of RFC 1035, section 2.3.4")
    return name


def name(text: str) -> bytes:
    """Return the wire form of a name such as `web.mesh`, with or without the last dot."""
    text = text.removesuffix(".")
    return wire_name(text.encode().split(b".")) if text else ROOT


def labels(name: bytes) -> list[bytes]:
    """Return the labels of a name in wire form, the root's left out."""
    found, at = [], 0
    while name[at]:
        found.append(name[at + 1 : at + 1 + name[at]])
        at += 1 + name[at]
    return found


def text(name: bytes) -> str:
    """Return a name for people, without the last dot; bytes that do not print as \\DDD."""
    return ".".join(
        "".join(chr(byte) if 32 < byte < 127 else f"\\{byte:03d}" for byte in label)
        for label in labels(name)
    )


def suffixes(name: bytes) -> Iterator[bytes]:
    """Yield the name, its parent, and so on up to the root."""
    at = 0
    while name[at]:
        yield name[at:]
        at += 1 + name[at]
    yield ROOT


def parent(name: bytes) -> bytes:
    """Return the name without its first label."""
    return name[1 + name[0] :]


def reverse_name(address: Address) -> bytes:
    """Return the name that owns the PTR of an address (RFC 1035, section 3.5; RFC 3596, 2.5)."""
    return reverse_zone(address, address.max_prefixlen)


def reverse_zone(address: Address, bits: int) -> bytes:
    """Return the reverse zone of a prefix whose length ends at an octet (IPv4) or nibble (IPv6)."""
    if address.version == 4:
        octets = [str(octet).encode() for octet in address.packed[: bits // 8]]
        return wire_name(reversed(octets))[:-1] + IN_ADDR
    nibbles = address.packed.hex()[: bits // 4]
    return b"".join(b"\x01" + nibble.encode() for nibble in reversed(nibbles)) + IP6


def tail(kind: int, ttl: int, rdata: bytes) -> bytes:
    """Return one record of class IN without its owner."""
    return _HEAD.pack(kind, IN, ttl, len(rdata)) + rdata


def tails(records: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and bytes of each record that stands in `records`, in order."""
    at = 0
    while at < len(records):
        kind, _, _, length = _HEAD.unpack_from(records, at)
        yield kind, records[at : at + 10 + length]
        at += 10 + length


def rdata(tail: bytes) -> bytes:
    """Return the RDATA of one record without its owner."""
    return tail[10:]


def address_tail(address: Address, ttl: int) -> bytes:
    """Return the A or AAAA record of an address."""
    return tail(A if address.version == 4 else AAAA, ttl, address.packed)


def srv_tail(ttl: int, weight: int, port: int, target: bytes) -> bytes:
    """Return a SRV record of priority 0 (RFC 2782)."""
    return tail(SRV, ttl, struct.pack(">HHH", 0, weight, port) + target)


def txt_tail(ttl: int, strings: Iterable[bytes]) -> bytes:
    """Return a TXT record; a string over 255 bytes goes on in the next (RFC 7208, 3.3)."""
    pieces = [
        string[at : at + 255] for string in strings for at in range(0, max(len(string), 1), 255)
    ]
    return tail(TXT, ttl, b"".join(bytes([len(piece)]) + piece for piece in pieces))


def soa_tail(ttl: int, server: bytes, mailbox: bytes, minimum: int) -> bytes:
    """Return a SOA record with serial 0, which the answering side replaces by its own.

    Nobody transfers this zone, so refresh, retry and expire are only what RFC 1912, section 2.2
    asks for.
    """
    return tail(SOA, ttl, server + mailbox + struct.pack(">IIIII", 0, 3600, 600, 604800, minimum))


def with_serial(soa: bytes, serial: int) -> bytes:
    """Return a SOA record with another serial."""
    return soa[:-20] + struct.pack(">I", serial & 0xFFFFFFFF) + soa[-16:]


def negative(soa: bytes) -> bytes:
    """Return a SOA record as a negative answer has it: TTL at most the minimum (RFC 2308, 3)."""
    ttl = min(soa[4:8], soa[-4:])
    return soa[:4] + ttl + soa[8:]
