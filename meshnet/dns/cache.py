"""Pure. Responses of upstreams, kept as long as they say, within a bound of number and bytes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.dns.response import Response

ENTRIES_MAX = 2048
BYTES_MAX = 1 << 20


class Cache:
    """The least recently used goes first. Keys say all that an answer depends on."""

    def __init__(self, entries: int = ENTRIES_MAX, size: int = BYTES_MAX) -> None:
        self._entries_max = entries
        self._bytes_max = size
        self._bytes = 0
        self._kept: dict[bytes, tuple[Response, float]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, now: float) -> tuple[Response, int] | None:
        """Return what is kept and its age in whole seconds, or None."""
        found = self._kept.pop(key, None)
        if found is None:
            return None
        response, since = found
        age = int(now - since)
        if age >= response.ttl:
            self._bytes -= response.size
            return None
        self._kept[key] = found
        return response, age

    def put(self, key: bytes, response: Response, now: float) -> None:
        """Keep a response, if it may be kept at all."""
        if not response.ttl or response.size > self._bytes_max // 8:
            return
        self._drop(key)
        self._kept[key] = (response, now)
        self._bytes += response.size
        while len(self._kept) > self._entries_max or self._bytes > self._bytes_max:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget all, as when the upstreams change."""
        self._kept.clear()
        self._bytes = 0

    def _drop(self, key: bytes) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._bytes -= found[0].size
