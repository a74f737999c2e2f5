"""Shell. DNS over TCP (RFC 7766): messages with their length before them, several on a connection.

Held in bounds: so many connections, and of them so many from one address; a time of idleness; the
length of a query; the bytes that wait for a client that does not read. Over the number of
connections, the one that was idle longest goes.
"""

from __future__ import annotations

import socket

from meshnet.dns.poller import READ, WRITE, Poller
from meshnet.dns.query import QUERY_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = Callable[[bytes, "Connection"], None]

CONNECTIONS_MAX = 128
PER_CLIENT_MAX = 32
IDLE_SECONDS = 10.0
WAITING_MAX = 1 << 18
"""Most bytes that wait to be sent before nothing more is read."""


class Connection:
    """One client's connection. `answer` is given each query; `send` is given the replies."""

    def __init__(
        self,
        desk: Desk,
        sock: socket.socket,
        client: str,
        answer: Callable[[bytes, Connection], None],
    ) -> None:
        self._desk = desk
        self._sock = sock
        self._answer = answer
        self._arrived = bytearray()
        self._waiting = bytearray()
        self._writing = False
        self.client = client
        self.used = desk.now
        desk.poller.add(sock.fileno(), READ, self._ready)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._write()
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
        while len(self._arrived) >= 2 and not self.closed and len(self._waiting) < WAITING_MAX:
            end = 2 + int.from_bytes(self._arrived[:2], "big")
            if end > 2 + QUERY_MAX:
                self.close()
            if end > len(self._arrived):
                break
            query = bytes(self._arrived[2:end])
            del self._arrived[:end]
            self._answer(query, self)

    def send(self, reply: bytes) -> None:
        """Send a reply; when the connection is gone, it is lost."""
        if self.closed:
            return
        self._waiting += len(reply).to_bytes(2, "big") + reply
        self._write()

    def _write(self) -> None:
        try:
            sent = self._sock.send(self._waiting)
            self.used = self._desk.now
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._waiting[:sent]
        self._wait()

    def _wait(self) -> None:
        """Wait for what can go on: sending first, and reading while the client reads as well."""
        writing = bool(self._waiting)
        if writing != self._writing:
            self._writing = writing
            full = len(self._waiting) >= WAITING_MAX
            self._desk.poller.change(self._sock.fileno(), WRITE if full else READ | WRITE * writing)

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

    def accept(self, listener: socket.socket, answer: Answer) -> None:
        """Take one waiting connection of a listener."""
        try:
            sock, sender = listener.accept()
        except OSError:
            return
        client = sender[0]
        if sum(one.client == client for one in self._open) >= PER_CLIENT_MAX:
            sock.close()
            return
        if len(self._open) >= CONNECTIONS_MAX:
            min(self._open, key=_used).close()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
