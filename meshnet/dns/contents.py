"""Pure. All that the DNS process knows of names: layers, contexts, and how they are replaced.

A change is staged piece by piece, between packets, and takes effect in one step. A full one is a
new `Contents` that takes the old one's place; a partial one is a list of changes to it.
"""

from __future__ import annotations

from meshnet.dns.lookup import Lookup, Names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

EMPTY = Lookup()
"""For a context nobody described yet: without zones it answers SERVFAIL."""


class Contents:
    """Layers by name, and what each context answers from them."""

    def __init__(self) -> None:
        self.layers: dict[str, Names] = {}
        self.contexts: dict[str, Lookup] = {}
        self._stacks: dict[str, tuple[str, ...]] = {}

    def lookup(self, context: str) -> Lookup:
        return self.contexts.get(context, EMPTY)

    def put(self, layer: str, owner: bytes, records: bytes | None) -> None:
        """Set what an owner has in a layer; None takes it away."""
        if layer not in self.layers:
            self.layers[layer] = Names()
        self.layers[layer].put(owner, records)

    def describe(self, context: str, layers: Iterable[str], origins: Iterable[bytes]) -> None:
        """Set which layers a context is made of, and its zones."""
        stack = tuple(layers)
        for layer in stack:
            if layer not in self.layers:
                self.layers[layer] = Names()
        self._stacks[context] = stack
        self.contexts[context] = Lookup([self.layers[layer] for layer in stack], origins)

    def forget(self, context: str) -> None:
        """Drop a context; its layers stay until `tidy`, for another may take them over."""
        self.contexts.pop(context, None)
        self._stacks.pop(context, None)

    def tidy(self) -> None:
        """Drop the layers that no context uses."""
        used = {layer for stack in self._stacks.values() for layer in stack}
        self.layers = {layer: names for layer, names in self.layers.items() if layer in used}

    def changed(self, layer: str, owners: Iterable[bytes]) -> None:
        """Tell every context that uses a layer which of its names changed."""
        owners = list(owners)
        for context, stack in self._stacks.items():
            if layer in stack:
                self.contexts[context].changed(owners)

    def finish(self, serial: int, recursion: bool) -> None:
        """Set what is the same for all contexts."""
        for lookup in self.contexts.values():
            lookup.serial = serial
            lookup.allow_recursion(recursion)

    @property
    def size(self) -> int:
        """The number of names in all layers."""
        return sum(len(names.records) for names in self.layers.values())


class Change:
    """A change that is being staged."""

    def __init__(self, full: bool) -> None:
        self.full = full
        self.puts: dict[tuple[str, bytes], bytes | None] = {}
        self.contexts: dict[str, tuple[list[str], list[bytes]] | None] = {}
        self._fresh = Contents()

    def describe(self, context: str, layers: list[str], origins: list[bytes]) -> None:
        """Stage what a context is made of. Said again, it adds zones."""
        before = self.contexts.get(context)
        self.contexts[context] = (layers, origins + (before[1] if before else []))

    def put(self, layer: str, owner: bytes, records: bytes | None) -> None:
        """Stage an owner's records. Those of a full change go to their place at once."""
        if self.full:
            self._fresh.put(layer, owner, records)
        else:
            self.puts[layer, owner] = records

    def append(self, layer: str, owner: bytes, records: bytes) -> None:
        """Stage more records of an owner that was put before."""
        fresh = self._fresh.layers.get(layer, Names()).records.get(owner)
        before = fresh if self.full else self.puts.get((layer, owner))
        self.put(layer, owner, (before or b"") + records)

    def commit(self, live: Contents, serial: int, recursion: bool) -> Contents:
        """Return the contents that are to answer from now on."""
        contents = self._fresh if self.full else live
        for context, described in self.contexts.items():
            if described is None:
                contents.forget(context)
            else:
                contents.describe(context, *described)
        contents.tidy()
        touched: dict[str, list[bytes]] = {}
        for (layer, owner), records in self.puts.items():
            contents.put(layer, owner, records)
            touched.setdefault(layer, []).append(owner)
        for layer, owners in touched.items():
            contents.changed(layer, owners)
        contents.finish(serial, recursion)
        return contents
