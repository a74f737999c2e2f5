"""Shell. DNS over TCP (RFC 7766): messages with their length before them, several on a connection.

Held in bounds: so many connections, and of them so many from one address; a time of idleness; the
length of a query; the bytes that wait for a client that does not read. Over the number of
connections, the one that was idle longest goes.
"""

from __future__ import annotations

from _socket import IPPROTO_TCP, TCP_NODELAY, socket

from meshnet.dns.poller import READ, WRITE, Poller, accept
from meshnet.dns.query import QUERY_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = Callable[[bytes, "Connection"], None]

CONNECTIONS_MAX = 128
PER_CLIENT_MAX = 32
IDLE_SECONDS = 10.0
WAITING_MAX = 1 << 16
"""Most bytes that wait to be sent before nothing more is read."""


class Connection:
    """One client's connection. `answer` is given each query; `send` is given the replies."""

    def __init__(
        self,
        desk: Desk,
        sock: socket,
        client: str,
        answer: Callable[[bytes, Connection], None],
    ) -> None:
        self._desk = desk
        self._sock = sock
        self._answer = answer
        self._arrived = bytearray()
        self._waiting = bytearray()
        self._events = READ
        self.client = client
        self.used = desk.now
        desk.poller.add(sock.fileno(), READ, self._ready)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._write()
            self._take()
        if events & ~WRITE and not self.closed:
            self._read()

    @property
    def closed(self) -> bool:
        return self._sock.fileno() < 0

    def _read(self) -> None:
        try:
            data = self._sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.used = self._desk.now
        self._arrived += data
        self._take()

    def _take(self) -> None:
        """Answer the whole queries that have arrived, unless the client is slow to read."""
        while len(self._arrived) >= 2 and not self._slow and not self.closed:
            end = 2 + int.from_bytes(self._arrived[:2], "big")
            if end > 2 + QUERY_MAX:
                self.close()
            if end > len(self._arrived):
                break
            query = bytes(self._arrived[2:end])
            del self._arrived[:end]
            self._answer(query, self)

    @property
    def _slow(self) -> bool:
        return len(self._waiting) >= WAITING_MAX

    def send(self, reply: bytes) -> None:
        """Send a reply; when the connection is gone, it is lost."""
        if self.closed:
            return
        self._waiting += len(reply).to_bytes(2, "big") + reply
        if self._events & WRITE:
            self._wait()
        else:
            self._write()

    def _write(self) -> None:
        try:
            del self._waiting[: self._sock.send(self._waiting)]
            self.used = self._desk.now
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._wait()

    def _wait(self) -> None:
        """Wait for what can go on. A client that does not read is not read from either."""
        events = (0 if self._slow else READ) | (WRITE if self._waiting else 0)
        if events != self._events:
            self._events = events
            self._desk.poller.change(self._sock.fileno(), events)

    def close(self) -> None:
        if not self.closed:
            self._desk.poller.remove(self._sock.fileno())
            self._desk.gone(self)
            self._sock.close()


class Desk:
    """All connections. `now` is set by the one who runs the loop."""

    def __init__(self, poller: Poller) -> None:
        self.poller = poller
        self.now = 0.0
        self._open: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def accept(self, listener: socket, answer: Answer) -> None:
        """Take one waiting connection of a listener."""
        try:
            sock, sender = accept(listener)
        except OSError:
            return
        client = sender[0]
        if sum(one.client == client for one in self._open) >= PER_CLIENT_MAX:
            sock.close()
            return
        if len(self._open) >= CONNECTIONS_MAX:
            min(self._open, key=_used).close()
        sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        self._open[Connection(self, sock, client, answer)] = None

    def gone(self, connection: Connection) -> None:
        self._open.pop(connection, None)

    def sweep(self) -> None:
        """Close what was idle for too long."""
        for connection in list(self._open):
            if self.now - connection.used > IDLE_SECONDS:
                connection.close()


def _used(connection: Connection) -> float:
    return connection.used
