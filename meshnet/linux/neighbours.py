"""Driver. The kernel's tables of neighbours (ARP, ND): for all its namespaces, and of a size.

Where one is full (`net.ipv4.neigh.default.gc_thresh3`, 1,024 unless told otherwise), packets to
further hosts on the same links are dropped without a word to anybody but a counter. Entries that
are permanent, as all of ours are, take no room.
"""

from __future__ import annotations

from pathlib import Path

STATISTICS = Path("/proc/1/net/stat")
"""Told in the namespace the kernel has started with, and there for all."""
TABLES = ("arp_cache", "ndisc_cache")
COLUMN = "table_fulls"


def turned_away() -> int | None:
    """Return for how many neighbours there was no room since the kernel started; None: not told."""
    counts = [_count(STATISTICS / table) for table in TABLES]
    told = [count for count in counts if count is not None]
    return sum(told) if told else None


def _count(path: Path) -> int | None:
    """Read one table's counter: a line of names, then one of hexadecimal numbers for each CPU."""
    try:
        names, *lines = path.read_text().splitlines()
        column = names.split().index(COLUMN)
        return sum(int(line.split()[column], 16) for line in lines)
    except (OSError, ValueError, IndexError):
        return None
