"""Shell. One thread waiting for many descriptors: epoll and a handler for each.

A handler may be called for a descriptor that was closed and opened anew in the same round, so it
has to expect that there is nothing to do.
"""

from __future__ import annotations

import select
from _socket import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
EVENTS_MAX = 64


class Poller:
    """Handlers by descriptor. They are called with the events that happened."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def add(self, descriptor: int, events: int, handler: Callable[[int], None]) -> None:
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, events)

    def change(self, descriptor: int, events: int) -> None:
        self._epoll.modify(descriptor, events)

    def remove(self, descriptor: int) -> None:
        """Stop to wait for a descriptor; before it is closed."""
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def run_once(self, timeout: float) -> None:
        """Wait for events, at most `timeout` seconds, and call their handlers."""
        for descriptor, events in self._epoll.poll(timeout, EVENTS_MAX):
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler(events)

    def close(self) -> None:
        self._epoll.close()


def accept(listener: socket) -> tuple[socket, Any]:
    """Return one waiting connection, not blocking, and its address; raise OSError for none."""
    descriptor, sender = listener._accept()  # type: ignore[attr-defined]  # known since Python 3.4
    sock = socket(fileno=descriptor)
    sock.setblocking(False)
    return sock, sender
