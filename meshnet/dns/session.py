"""Shell. One connection on the control socket: messages in, one answer to each.

`dns.control` has the dialogue. A connection may only come from root or our own user. What it has
begun and not committed ends with it.
"""

from __future__ import annotations

import os
import struct
from _socket import CMSG_SPACE, SCM_RIGHTS, SO_PEERCRED, SOL_SOCKET, socket

from meshnet import __version__
from meshnet.dns import control
from meshnet.dns.contents import Change
from meshnet.dns.listener import Listener
from meshnet.dns.poller import READ
from meshnet.errors import BadInput, MeshnetError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol

    from meshnet.dns.listener import Key
    from meshnet.dns.poller import Poller

    Fields = list[bytes]
    Reply = tuple[list[str | int], list[int]]

    class Served(Protocol):
        """What the messages are about: the process, as far as they may touch it."""

        poller: Poller
        listeners: dict[Key, Listener]

        def commit(self, change: Change, serial: int) -> None: ...
        def listen(self, listener: Listener) -> None: ...
        def unlisten(self, context: str, address: str, port: int) -> None: ...
        def set_upstreams(self, upstreams: Iterable[tuple[str, int]]) -> None: ...
        def metrics(self) -> Iterator[str]: ...
        def stop(self) -> None: ...


TAKEN_AT_ONCE = 64
DESCRIPTORS_MAX = 4

_CREDENTIALS = struct.Struct("3i")


class Session:
    """The agent at the other end, or whoever asks for figures."""

    def __init__(self, server: Served, sock: socket) -> None:
        self._server = server
        self._sock = sock
        self._change: Change | None = None
        self._handlers: dict[bytes, Callable[[Fields, list[int]], Reply]] = {
            control.HELLO: self._hello,
            control.BEGIN: self._begin,
            control.CONTEXT: self._context,
            control.FORGET: self._forget,
            control.PUT: self._put,
            control.APPEND: self._append,
            control.DROP: self._drop,
            control.COMMIT: self._commit,
            control.LISTEN: self._listen,
            control.UNLISTEN: self._unlisten,
            control.UPSTREAMS: self._upstreams,
            control.STATS: self._stats,
            control.TAKE: self._take,
            control.STOP: self._stop,
        }
        raw = sock.getsockopt(SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(raw)[1] not in (0, os.getuid()):
            sock.close()
            return
        server.poller.add(sock.fileno(), READ, self._ready)

    def _ready(self, events: int) -> None:
        """Take one message, so that queries are answered between two of them."""
        del events
        try:
            space = CMSG_SPACE(4 * DESCRIPTORS_MAX)
            message, ancillary, _, _ = self._sock.recvmsg(control.MESSAGE_MAX, space)
        except BlockingIOError:
            return
        except OSError:
            message, ancillary = b"", []
        descriptors = _descriptors(ancillary)
        if not message:
            self._close()
            return
        self._answer(message, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    def _answer(self, message: bytes, descriptors: list[int]) -> None:
        given: list[int] = []
        try:
            operation, fields = control.unpack(message)
            handler = self._handlers.get(operation)
            if handler is None:
                raise BadInput(f"control operation {operation!r} is unknown")
            said, given = handler(fields, descriptors)
            reply = control.pack(control.DONE, *said)
        except (MeshnetError, ValueError, IndexError, OSError) as error:
            reply = control.pack(control.FAILED, str(error))
        ancillary = [(SOL_SOCKET, SCM_RIGHTS, struct.pack(f"{len(given)}i", *given))]
        try:
            self._sock.sendmsg([reply], ancillary if given else [])
        except OSError:
            self._close()

    def _close(self) -> None:
        if self._sock.fileno() >= 0:
            self._server.poller.remove(self._sock.fileno())
            self._sock.close()

    def _hello(self, fields: Fields, descriptors: list[int]) -> Reply:
        del fields, descriptors
        said: list[str | int] = [__version__, os.getpid()]
        for listener in self._server.listeners.values():
            said += listener.fields
        return said, []

    def _begin(self, fields: Fields, descriptors: list[int]) -> Reply:
        del descriptors
        self._change = Change(fields[0] == b"full")
        return [], []

    def _staged(self) -> Change:
        if self._change is None:
            raise BadInput("nothing was begun")
        return self._change

    def _context(self, fields: Fields, descriptors: list[int]) -> Reply:
        del descriptors
        context, layers, *origins = fields
        self._staged().describe(context.decode(), layers.decode().split(), origins)
        return [], []

    def _forget(self, fields: Fields, descriptors: list[int]) -> Reply:
        del descriptors
        self._staged().contexts[fields[0].decode()] = None
        return [], []

    def _put(self, fields: Fields, descriptors: list[int]) -> Reply:
        del descriptors
        layer, change = fields[0].decode(), self._staged()
        known = b""
        for owner, records in control.pairs(fields[1:]):
            # Of equal records, which come one after the other, one copy is enough.
            known = known if records == known else records
            change.put(layer, owner, known)
        return [], []

    def _append(self, fields: Fields, descriptors: list[int]) -> Reply:
        del descriptors
        layer, owner, records = fields
        self._staged().append(layer.decode(), owner, records)
        return [], []

    def _drop(self, fields: Fields, descriptors: list[int]) -> Reply:
        del descriptors
        layer, change = fields[0].decode(), self._staged()
        for owner in fields[1:]:
            change.put(layer, owner, None)
        return [], []

    def _commit(self, fields: Fields, descriptors: list[int]) -> Reply:
        del descriptors
        self._server.commit(self._staged(), int(fields[0]))
        self._change = None
        return [], []

    def _listen(self, fields: Fields, descriptors: list[int]) -> Reply:
        context, transport, address, port, netns = (field.decode() for field in fields)
        if transport not in ("udp", "tcp") or not descriptors:
            raise BadInput("a listener needs udp or tcp, and a socket")
        sock = socket(fileno=os.dup(descriptors[0]))
        sock.setblocking(False)
        key = (context, transport, address, int(port))
        self._server.listen(Listener(key, netns, sock))
        return [], []

    def _unlisten(self, fields: Fields, descriptors: list[int]) -> Reply:
        del descriptors
        context, address, port = (field.decode() for field in fields)
        self._server.unlisten(context, address, int(port))
        return [], []

    def _upstreams(self, fields: Fields, descriptors: list[int]) -> Reply:
        del descriptors
        pairs = control.pairs(fields)
        self._server.set_upstreams([(address.decode(), int(port)) for address, port in pairs])
        return [], []

    def _stats(self, fields: Fields, descriptors: list[int]) -> Reply:
        del fields, descriptors
        return ["\n".join(self._server.metrics())], []

    def _take(self, fields: Fields, descriptors: list[int]) -> Reply:
        """Give away some of the listeners, from the given one on."""
        del descriptors
        start = int(fields[0])
        listeners = list(self._server.listeners.values())[start : start + TAKEN_AT_ONCE]
        said = [field for listener in listeners for field in listener.fields]
        return said, [listener.sock.fileno() for listener in listeners]

    def _stop(self, fields: Fields, descriptors: list[int]) -> Reply:
        del fields, descriptors
        self._server.stop()
        return [], []


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came with a message."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            found += struct.unpack_from(f"{len(data) // 4}i", data)
    return found
