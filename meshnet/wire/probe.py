"""Pure. The probe: one UDP packet through the tunnel and its answer.

    offset  0  "mnp1"          magic and version
            4  kind            1 ask, 2 answer
            5  nonce           8 bytes, big-endian, chosen by the asker, returned in the answer
           13  digest          16 bytes: the sender's digest of all facts it knows

WireGuard has authenticated the sender by its mesh address, so the packet carries no signature. The
digest lets two nodes that cannot ask a coordinator notice that one knows more than the other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from meshnet.errors import BadInput

MAGIC = b"mnp1"
ASK, ANSWER = 1, 2
LAYOUT = struct.Struct(">4sBQ16s")


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe. `digest` is 32 hex digits."""

    kind: int
    nonce: int
    digest: str

    def pack(self) -> bytes:
        return LAYOUT.pack(MAGIC, self.kind, self.nonce, bytes.fromhex(self.digest))

    @classmethod
    def parse(cls, data: bytes) -> Probe:
        """Read a packet; raise BadInput for anything that is not a probe."""
        if len(data) != LAYOUT.size:
            raise BadInput(f"a probe has {LAYOUT.size} bytes, not {len(data)}")
        magic, kind, nonce, digest = LAYOUT.unpack(data)
        if magic != MAGIC or kind not in (ASK, ANSWER):
            raise BadInput("not a probe")
        return cls(kind, nonce, digest.hex())
