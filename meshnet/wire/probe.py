"""Pure. The probes: UDP packets through the tunnel, and their answers.

    offset  0  "mnp1"          magic and version
            4  kind            1 ask, 2 answer
            5  nonce           8 bytes, big-endian, chosen by the asker, returned in the answer
           13  digest          16 bytes: the sender's digest of all facts it knows
           29  address, port   16 and 2 bytes, in answers that have it: the endpoint at which the
                               sender's kernel has the asker; IPv4 as ::ffff:a.b.c.d

WireGuard has authenticated the sender by its mesh address, so the packet carries no signature. The
digest lets two nodes that cannot ask a coordinator notice that one knows more than the other. The
endpoint tells the asker whether a NAT stands between.

A probe of size proves that a packet of that length passes. The asker fills it up with zeros, the
answer is as short as can be:

    offset  0  "mns1"          magic and version
            4  kind            1 ask, 2 answer
            5  nonce           8 bytes, as above

A hint names nodes that the sender has just found to be gone. It proves nothing: who gets it asks
for itself (see `paths.liveness`):

    offset  0  "mnh1"          magic and version
            4  addresses       4 bytes each, up to HINT_LIMIT: the IPv4 mesh addresses of the nodes
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from meshnet.errors import BadInput
from meshnet.model.addresses import Address, Endpoint

MAGIC = b"mnp1"
ASK, ANSWER = 1, 2
LAYOUT = struct.Struct(">4sBQ16s")
SEEN = struct.Struct(">16sH")
MAPPED = bytes(10) + b"\xff\xff"
SIZE_MAGIC = b"mns1"
SIZE_LAYOUT = struct.Struct(">4sBQ")
HINT_MAGIC = b"mnh1"
HINT_LIMIT = 64
HEADERS = 28
"""Bytes of IPv4 and UDP before a probe."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe. `digest` is 32 hex digits; `seen` where the sender's kernel has the asker."""

    kind: int
    nonce: int
    digest: str
    seen: Endpoint | None = None

    def pack(self) -> bytes:
        packet = LAYOUT.pack(MAGIC, self.kind, self.nonce, bytes.fromhex(self.digest))
        return packet if self.seen is None else packet + _pack_seen(self.seen)

    @classmethod
    def parse(cls, data: bytes) -> Probe:
        """Read a packet; raise BadInput for anything that is not a probe."""
        if len(data) not in (LAYOUT.size, LAYOUT.size + SEEN.size):
            raise BadInput(f"no probe has {len(data)} bytes")
        magic, kind, nonce, digest = LAYOUT.unpack_from(data)
        if magic != MAGIC or kind not in (ASK, ANSWER):
            raise BadInput("not a probe")
        return cls(kind, nonce, digest.hex(), _parse_seen(data[LAYOUT.size :]))


@dataclass(frozen=True, slots=True)
class SizeProbe:
    """A probe of size, and its answer."""

    kind: int
    nonce: int

    def pack(self, size: int = 0) -> bytes:
        """Return the payload of a packet of `size` bytes, or of the shortest."""
        return SIZE_LAYOUT.pack(SIZE_MAGIC, self.kind, self.nonce).ljust(size - HEADERS, b"\0")

    @classmethod
    def parse(cls, data: bytes) -> SizeProbe:
        """Read a packet, or the beginning of one; raise BadInput for anything else."""
        if len(data) < SIZE_LAYOUT.size:
            raise BadInput(f"a probe of size has {SIZE_LAYOUT.size} bytes or more, not {len(data)}")
        magic, kind, nonce = SIZE_LAYOUT.unpack_from(data)
        if magic != SIZE_MAGIC or kind not in (ASK, ANSWER):
            raise BadInput("not a probe of size")
        return cls(kind, nonce)


@dataclass(frozen=True, slots=True)
class Hint:
    """Mesh addresses of nodes that may be gone."""

    addresses: tuple[IPv4Address, ...]

    def pack(self) -> bytes:
        return HINT_MAGIC + b"".join(address.packed for address in self.addresses)

    @classmethod
    def parse(cls, data: bytes) -> Hint:
        """Read a packet; raise BadInput for anything that is not a hint."""
        magic, body = data[:4], data[4:]
        if magic != HINT_MAGIC or len(body) % 4 or not 0 < len(body) <= 4 * HINT_LIMIT:
            raise BadInput("not a hint")
        return cls(tuple(IPv4Address(body[at : at + 4]) for at in range(0, len(body), 4)))


def _pack_seen(seen: Endpoint) -> bytes:
    raw = seen.address.packed
    return SEEN.pack(raw if len(raw) == 16 else MAPPED + raw, seen.port)


def _parse_seen(data: bytes) -> Endpoint | None:
    if not data:
        return None
    raw, port = SEEN.unpack(data)
    whole = IPv6Address(raw)
    address: Address = whole.ipv4_mapped or whole
    return Endpoint(address, port)
