"""Pure. Mappings by the thousand of which little changes: where two differ is known, not searched.

What follows from all facts (entries in the kernel, names) is compared with what there was before,
at each change. Context: comparing 10,000 entries takes longer than all the rest of a change.
Choice: a mapping made from another one remembers which keys it did not take over. Price: only the
step from one version to the next is cheap; any two others are compared as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Patched(dict[K, V]):
    """`origin` with some keys set anew, or taken away (None). Never changed once it is made."""

    __slots__ = ("_changed", "_origin", "_version")

    def __init__(self, origin: Mapping[K, V], changes: Mapping[K, V | None]) -> None:
        super().__init__(origin)
        for key, value in changes.items():
            if value is None:
                self.pop(key, None)
            else:
                self[key] = value
        self._changed = changes.keys()
        self._version = object()
        self._origin = origin._version if isinstance(origin, Patched) else None

    def changed_since(self, before: Mapping[K, V]) -> Collection[K] | None:
        """Return the keys in which this may differ from `before`; None where nothing is known."""
        # Versions and not the mappings: one that remembered its origin would keep all there were.
        known = isinstance(before, Patched) and before._version is self._origin
        return self._changed if known else None


def may_differ(after: Mapping[K, V], before: Mapping[K, V]) -> Collection[K]:
    """Return keys among which are all that `after` has otherwise than `before`, or in addition."""
    if after is before:
        return ()
    changed = after.changed_since(before) if isinstance(after, Patched) else None
    return after.keys() if changed is None else changed & after.keys()


def may_lack(after: Mapping[K, V], before: Mapping[K, V]) -> Collection[K]:
    """Return keys of `before` among which are all that `after` has no more."""
    if after is before:
        return ()
    changed = after.changed_since(before) if isinstance(after, Patched) else None
    return before.keys() if changed is None else changed & before.keys()
