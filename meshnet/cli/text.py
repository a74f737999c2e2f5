"""Pure. Numbers, ages and lists as people read them, and tables as aligned columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

NOTHING = "-"

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text under headings. `right` are the headings whose columns hold numbers."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[str] = frozenset()


def columns(table: Table) -> str:
    """Return a table as aligned columns, two spaces apart, for pipes and files."""
    lines = [table.heads, *table.rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.heads))]
    return "\n".join(_line(line, widths, table) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], table: Table) -> str:
    padded = [
        cell.rjust(width) if head in table.right else cell.ljust(width)
        for cell, width, head in zip(cells, widths, table.heads, strict=True)
    ]
    return "  ".join(padded).rstrip()


def span(seconds: float) -> str:
    """Return a duration in its largest whole unit, such as `3 min`; less than a second is `0 s`."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "0 s"


def ago(moment: float, now: float) -> str:
    """Return how long ago `moment` was, or `never` for 0."""
    return f"{span(now - moment)} ago" if moment else "never"


def until(moment: float, now: float) -> str:
    """Return how long it is until `moment`."""
    return f"in {span(moment - now)}" if moment > now else f"{span(now - moment)} ago"


def date(moment: float) -> str:
    """Return a time in UTC to the minute (RFC 3339 with a space), or a dash for 0."""
    if not moment:
        return NOTHING
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%MZ")


def amount(octets: float) -> str:
    """Return a number of bytes with a binary prefix (IEC 80000-13): `17 B`, `1.5 KiB`."""
    if octets < 1024:
        return f"{octets:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        octets /= 1024
        if octets < 1024:
            return f"{octets:.1f} {unit}"
    return f"{octets / 1024:.1f} TiB"


def count(number: int, noun: str) -> str:
    """Return `1 node`, `2 nodes`, `0 nodes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def words(items: Iterable[object]) -> str:
    """Return items beside each other, or a dash for none."""
    return " ".join(str(item) for item in items) or NOTHING


def yes(flag: bool) -> str:
    return "yes" if flag else "no"
