"""Pure. What one context answers: layers of names, and the zones it is authoritative for.

A context is who asks: the host, or a container on one network. They share nearly everything, so a
table is a stack of layers, and the first layer that has the name wins:

    context @host    context appnet    context backend
    ┌──────────┐     ┌──────────┐      ┌──────────┐
    │ @host    │     │ appnet   │      │ backend  │     a few names that differ
    └────┬─────┘     └────┬─────┘      └────┬─────┘
         └────────────────┴─────────────────┘
                      ┌────────┐
                      │ common │                        nearly all names
                      └────────┘

Layers are never changed in place: an update makes a new mapping, so two tables can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshnet.model.patched import may_differ, may_lack

HOST = "@host"
"""The context of the host itself. No network can have this name."""

COMMON = "@common"
"""The layer below all others."""

Layer = Mapping[bytes, bytes]
"""Records by owner, both in the form of `dns.records`. An owner may have no records at all."""


@dataclass(frozen=True, slots=True)
class Table:
    """Layers by name, the first wins, and the names of the zones."""

    layers: tuple[tuple[str, Layer], ...]
    origins: frozenset[bytes]

    def get(self, name: bytes) -> bytes | None:
        """Return the records of a name in wire form, or None when no layer has it."""
        return next((layer[name] for _, layer in self.layers if name in layer), None)


def differences(before: Layer, after: Layer) -> dict[bytes, bytes | None]:
    """Return what has to be set to turn one layer into another; None takes a name away."""
    changed: dict[bytes, bytes | None] = {
        owner: after[owner]
        for owner in may_differ(after, before)
        if before.get(owner) != after[owner]
    }
    changed.update((owner, None) for owner in may_lack(after, before) if owner not in after)
    return changed
