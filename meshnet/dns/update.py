"""Pure. From the tables a process has to those it should have, as control messages.

Layers are shared by contexts and sent once. Nothing is sent when nothing differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshnet.dns.control import (
    BEGIN,
    COMMIT,
    CONTEXT,
    FORGET,
    MESSAGE_MAX,
    pack,
    put_messages,
)
from meshnet.dns.records import NAME_MAX
from meshnet.dns.table import Layer, Table, differences

Tables = Mapping[str, Table]

ORIGINS_AT_ONCE = MESSAGE_MAX // (NAME_MAX + 4) - 2


def update_messages(before: Tables | None, after: Tables, serial: int) -> Iterator[bytes]:
    """Yield the messages that turn `before` into `after`; `before` None is a new process."""
    known = before or {}
    changes = [*_context_changes(known, after), *_layer_changes(known, after)]
    if changes or before is None:
        yield pack(BEGIN, "full" if before is None else "part")
        yield from changes
        yield pack(COMMIT, serial)


def _context_changes(before: Tables, after: Tables) -> Iterator[bytes]:
    for context in sorted(before.keys() - after.keys()):
        yield pack(FORGET, context)
    for context, table in sorted(after.items()):
        known = before.get(context)
        if known is None or known.origins != table.origins or _stack(known) != _stack(table):
            yield from _describe(context, table)


def _describe(context: str, table: Table) -> Iterator[bytes]:
    """Yield what a context is made of; origins too many for one message follow in the next."""
    origins = sorted(table.origins)
    for at in range(0, max(len(origins), 1), ORIGINS_AT_ONCE):
        yield pack(CONTEXT, context, _stack(table), *origins[at : at + ORIGINS_AT_ONCE])


def _stack(table: Table) -> str:
    return " ".join(layer for layer, _ in table.layers)


def _layer_changes(before: Tables, after: Tables) -> Iterator[bytes]:
    known = _layers(before)
    for layer, names in sorted(_layers(after).items()):
        yield from put_messages(layer, differences(known.get(layer, {}), names))


def _layers(tables: Tables) -> dict[str, Layer]:
    return {layer: names for table in tables.values() for layer, names in table.layers}
