"""Pure. The probe: one UDP packet through the tunnel and its answer.

    offset  0  "mnp1"          magic and version
            4  kind            1 ask, 2 answer
            5  nonce           8 bytes, big-endian, chosen by the asker, returned in the answer
           13  digest          16 bytes: the sender's digest of all facts it knows
           29  address, port   16 and 2 bytes, in answers that have it: the endpoint at which the
                               sender's kernel has the asker; IPv4 as ::ffff:a.b.c.d

WireGuard has authenticated the sender by its mesh address, so the packet carries no signature. The
digest lets two nodes that cannot ask a coordinator notice that one knows more than the other. The
endpoint tells the asker whether a NAT stands between.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address

from meshnet.errors import BadInput
from meshnet.model.addresses import Address, Endpoint

MAGIC = b"mnp1"
ASK, ANSWER = 1, 2
LAYOUT = struct.Struct(">4sBQ16s")
SEEN = struct.Struct(">16sH")
MAPPED = bytes(10) + b"\xff\xff"


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
