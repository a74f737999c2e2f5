"""Shell. The DNS process: one thread, one loop over listeners, connections, upstreams, control.

It knows what the agent sent it and nothing else, and goes on answering when the agent is gone. It
opens no listener itself: sockets come from the agent, which may have opened them in the namespace
of a network.

Its memory is small because it imports little: no asyncio, no model, no JSON, and of sockets the
type itself, which lives in `_socket`. What `socket` adds to it, names for constants above all,
would be a tenth of the process.
"""

from __future__ import annotations

import gc
import os
import time
from _socket import AF_UNIX, SOCK_NONBLOCK, SOCK_SEQPACKET, socket

from meshnet.dns.contents import Contents
from meshnet.dns.forward import Forwarder
from meshnet.dns.listener import Answerer, Listener
from meshnet.dns.poller import READ, Poller, accept
from meshnet.dns.session import Session
from meshnet.dns.tcp import Desk
from meshnet.errors import Conflict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meshnet.dns.contents import Change
    from meshnet.dns.listener import Batches, Key

RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")
SWEEP_SECONDS = 1.0
FLIGHT_SECONDS = 0.1
"""How long the loop waits at most, idle and with queries under way."""


class Server:
    """The state of the process and its loop."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.poller = Poller()
        self._forwarder = Forwarder(self.poller)
        self._desk = Desk(self.poller)
        self._contents = Contents()
        self._batches: Batches = {}
        self._answerers: dict[str, Answerer] = {}
        self.listeners: dict[Key, Listener] = {}
        self._running = True
        self._serial = 1
        self._serve_path()

    def run(self) -> None:
        """Serve until told to stop."""
        # What is here by now stays; no collection needs to look at it again.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        swept = 0.0
        while self._running:
            self.poller.run_once(FLIGHT_SECONDS if len(self._forwarder) else SWEEP_SECONDS)
            self._forwarder.now = self._desk.now = now = time.monotonic()
            self._forwarder.sweep()
            if now - swept >= SWEEP_SECONDS:
                swept = now
                self._desk.sweep()
                self._stay_findable()
        if self._is_found():
            os.unlink(self._path)  # noqa: PTH108 - pathlib would be as much again
        self._control.close()

    def stop(self) -> None:
        self._running = False

    def _serve_path(self) -> None:
        self._control = _control_socket(self._path)
        status = os.stat(self._path)  # noqa: PTH116 - as below
        self._place = status.st_dev, status.st_ino
        self.poller.add(self._control.fileno(), READ, self._accept_session)

    def _stay_findable(self) -> None:
        """Serve the path again when somebody removed it. End when another process serves it by now:
        nobody finds us there any more, and that one needs our ports."""
        if self._is_found():
            return
        before = self._control
        try:
            self._serve_path()
        except Conflict:
            self.stop()
        except OSError:
            return
        else:
            self.poller.remove(before.fileno())
            before.close()

    def _is_found(self) -> bool:
        """Say whether the path leads to our socket, as far as its place in the directory tells."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - as below
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._place

    def _accept_session(self, events: int) -> None:
        del events
        try:
            sock, _ = accept(self._control)
        except OSError:
            return
        Session(self, sock)

    def commit(self, change: Change, serial: int) -> None:
        """Let a change take effect, in one step for all contexts."""
        self._serial = serial
        self._contents = change.commit(self._contents, serial, bool(self._forwarder.upstreams))
        for context, answerer in self._answerers.items():
            answerer.lookup = self._contents.lookup(context)

    def listen(self, listener: Listener) -> None:
        """Serve a socket, in the place of one that was there for the same address."""
        self._drop(listener.key)
        self.listeners[listener.key] = listener
        answerer = self._answerers.get(listener.context)
        if answerer is None:
            answerer = self._answerers[listener.context] = Answerer(self._forwarder, self._batches)
            answerer.lookup = self._contents.lookup(listener.context)
        sock = listener.sock

        def datagrams(events: int) -> None:
            del events
            answerer.serve(sock)

        def connection(events: int) -> None:
            del events
            self._desk.accept(sock, answerer.message)

        ready = datagrams if listener.transport == "udp" else connection
        self.poller.add(sock.fileno(), READ, ready)
        self._know_ourselves()

    def unlisten(self, context: str, address: str, port: int) -> None:
        """Close the sockets of an address."""
        for transport in ("udp", "tcp"):
            self._drop((context, transport, address, port))
        self._know_ourselves()

    def _drop(self, key: Key) -> None:
        listener = self.listeners.pop(key, None)
        if listener is not None:
            self.poller.remove(listener.sock.fileno())
            listener.sock.close()

    def set_upstreams(self, upstreams: Iterable[tuple[str, int]]) -> None:
        """Forward other names to these; to none at all refuses them."""
        self._forwarder.set_upstreams(upstreams)
        self._know_ourselves()

    def _know_ourselves(self) -> None:
        self._forwarder.set_own(
            (listener.address, listener.port) for listener in self.listeners.values()
        )
        self._contents.finish(self._serial, bool(self._forwarder.upstreams))

    def metrics(self) -> Iterator[str]:
        """Yield lines of the form `name{label="value"} number`."""
        for context, answerer in sorted(self._answerers.items()):
            counts, label = answerer.counts, f'context="{context}"'
            for code, number in enumerate(counts.by_code):
                total = number + (counts.known if code == 0 else 0)
                if total:
                    rcode = RCODES[code] if code < len(RCODES) else str(code)
                    yield f'queries{{{label},rcode="{rcode}"}} {total}'
            yield f"known_packets{{{label}}} {counts.known}"
            yield f"forwarded{{{label}}} {counts.forwarded}"
            yield f"dropped{{{label}}} {counts.dropped}"
        for result, number in self._forwarder.counts.items():
            yield f'forwards{{result="{result}"}} {number}'
        yield f"cache_entries {len(self._forwarder.cache)}"
        yield f"connections {len(self._desk)}"
        yield f"names {self._contents.size}"
        yield f"serial {self._serial}"


def _control_socket(path: str) -> socket:
    """Return the listening control socket; raise Conflict when another process serves there."""
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - as above
    sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK)
    probe = socket(AF_UNIX, SOCK_SEQPACKET)
    served = probe.connect_ex(path) == 0
    probe.close()
    if served:
        raise Conflict(f"a DNS process serves {path} already")
    if os.path.exists(path):  # noqa: PTH110 - as above
        os.unlink(path)  # noqa: PTH108 - as above
    before = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(before)
    sock.listen(8)
    return sock
