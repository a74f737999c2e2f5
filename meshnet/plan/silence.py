"""Pure. Which peers get packets and say nothing, by what WireGuard counts.

Whoever is sent something answers in some way, and be it by the keepalive that WireGuard sends for
it after ten seconds. So silence proves nothing, but it is a reason to ask.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshnet.model.keys import PublicKey
from meshnet.plan.state import PeerStatus

Status = Mapping[PublicKey, PeerStatus]


def silent(before: Status, after: Status) -> list[PublicKey]:
    """Return the peers that were sent something between two looks and from which nothing came."""
    return [
        key
        for key, now in after.items()
        if (then := before.get(key)) and now.sent > then.sent and now.received == then.received
    ]
