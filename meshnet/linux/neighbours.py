"""Driver. The kernel's tables of neighbours (ARP, ND): for all its namespaces, and of a size.

Where one is full (`net.ipv4.neigh.default.gc_thresh3`, 1,024 unless told otherwise), packets to
further hosts on the same links are dropped without a word to anybody but a counter. Entries that
are permanent, as all of ours are, take no room. The layouts are those of linux/neighbour.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from meshnet.errors import KernelRefused
from meshnet.linux.netlink import Netlink, attributes, message

RTM_GETNEIGHTBL = 66
_NDTA_STATS = 7
_HEAD = struct.Struct("=BxH")
_TABLE_FULLS = struct.Struct("=80xQ")
"""The last of the eleven counters in a struct ndt_stats."""


def turned_away() -> int | None:
    """Return for how many neighbours there was no room since the kernel started; None: not told."""
    try:
        with Netlink() as netlink:
            query = message(RTM_GETNEIGHTBL, 0, _HEAD.pack(0, 0))
            return count(netlink.dump(query, "dump the tables of neighbours"))
    except KernelRefused:
        return None


def count(bodies: Iterable[bytes]) -> int | None:
    """Add up what all tables say; None where none of them does. A table also has a body for each
    link, which says nothing of this."""
    found = [
        _TABLE_FULLS.unpack_from(stats)[0]
        for body in bodies
        if len(stats := attributes(body[_HEAD.size :]).get(_NDTA_STATS, b"")) >= _TABLE_FULLS.size
    ]
    return sum(found) if found else None
