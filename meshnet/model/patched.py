"""Pure. Mappings by the thousand of which little changes: where two differ is known, not searched.

What follows from all facts (entries in the kernel, names) is compared with what there was before,
at each change. Context: comparing 10,000 entries takes longer than all the rest of a change.
Choice: a mapping made from another one remembers which keys it did not take over, and the steps
before that. Price: two that have no common origin in their last steps are compared as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

STEPS = 64
"""How many steps a mapping remembers, and ..."""
MOST = 1024
"""... how many keys a step may have that is remembered."""


class Patched(dict[K, V]):
    """`origin` with some keys set anew, or taken away (None). Not changed once it is handed out."""

    __slots__ = ("_steps", "_version")

    def __init__(self, origin: Mapping[K, V], changes: Mapping[K, V | None]) -> None:
        super().__init__(origin)
        for key, value in changes.items():
            if value is None:
                self.pop(key, None)
            else:
                self[key] = value
        # Versions and not the mappings: one that remembered its origins would keep all of them.
        self._version = object()
        self._steps: tuple[tuple[object, frozenset[K]], ...] = ()
        if isinstance(origin, Patched) and len(changes) <= MOST:
            self._steps = ((origin._version, frozenset(changes)), *origin._steps[: STEPS - 1])

    def origins(self) -> Iterator[tuple[object, frozenset[K]]]:
        """Yield what stands for this mapping and each one before, and the keys changed since."""
        changed = frozenset[K]()
        yield self._version, changed
        for version, keys in self._steps:
            changed |= keys
            yield version, changed


def differing(one: Mapping[K, V], other: Mapping[K, V]) -> frozenset[K] | None:
    """Return keys among which are all in which the two differ; None where nothing is known."""
    if one is other:
        return frozenset()
    if not isinstance(one, Patched) or not isinstance(other, Patched):
        return None
    known = dict(one.origins())
    found = ((known[version], keys) for version, keys in other.origins() if version in known)
    return next((mine | keys for mine, keys in found), None)


def may_differ(after: Mapping[K, V], before: Mapping[K, V]) -> Collection[K]:
    """Return keys among which are all that `after` has otherwise than `before`, or in addition."""
    keys = differing(after, before)
    return after.keys() if keys is None else keys & after.keys()


def may_lack(after: Mapping[K, V], before: Mapping[K, V]) -> Collection[K]:
    """Return keys of `before` among which are all that `after` has no more."""
    keys = differing(after, before)
    return before.keys() if keys is None else keys & before.keys()
