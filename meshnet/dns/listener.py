"""Shell. A socket that queries come to, and who asks there: a context."""

from __future__ import annotations

from _socket import socket

from meshnet.dns.answer import Forward, answer
from meshnet.dns.batch import SLOTS, Single, batch_for
from meshnet.dns.lookup import Lookup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.dns.batch import Batch, Sender
    from meshnet.dns.forward import Forwarder
    from meshnet.dns.tcp import Connection

    Batches = dict[int, Batch | Single]

    Key = tuple[str, str, str, int]

ROUNDS = 4
"""Full batches taken from one socket before the others have their turn."""


class Counts:
    """What was answered in one context: by response code, from known packets, forwarded, not."""

    def __init__(self) -> None:
        self.by_code = [0] * 16
        self.known = 0
        self.forwarded = 0
        self.dropped = 0

    def note(self, reply: bytes | None) -> None:
        if reply is None:
            self.dropped += 1
        else:
            self.by_code[reply[3] & 15] += 1


class Listener:
    """One UDP or TCP socket; its key is context, transport, address and port.

    `netns` tells sockets of equal address in two namespaces apart.
    """

    def __init__(self, key: Key, netns: str, sock: socket) -> None:
        self.context, self.transport, self.address, self.port = self.key = key
        self.netns = netns
        self.sock = sock

    @property
    def fields(self) -> tuple[str | int, ...]:
        """How the listener is named on the control socket."""
        return (*self.key, self.netns)


class Answerer:
    """Answers what comes to the listeners of one context."""

    def __init__(self, forwarder: Forwarder, batches: Batches) -> None:
        self._forwarder = forwarder
        self._batches = batches
        self._sock: socket | None = None
        self._single = Single()
        self._busy = False
        self.lookup = Lookup()
        self.counts = Counts()

    def serve(self, sock: socket) -> None:
        """Answer the datagrams that wait: at leisure the first by itself, which is quickest."""
        if sock.family not in self._batches:
            self._batches[sock.family] = batch_for(sock.family)
        batch, packets = self._batches[sock.family], self.lookup.packets
        self._sock = sock
        if not self._busy:
            _, known = self._single.serve(sock, packets, self._datagram, 1)
            self.counts.known += known
        total = 0
        for _ in range(ROUNDS):
            count, known = batch.serve(sock, packets, self._datagram)
            self.counts.known += known
            total += count
            if count < SLOTS:
                break
        self._busy = total > 1

    def _datagram(self, data: bytes, batch: Batch | Single, slot: int) -> bytes | None:
        reply = answer(data, self.lookup)
        if isinstance(reply, Forward):
            late = _LateDatagram(self, batch.sender(slot))
            return self._forward(reply, late, False)
        self.counts.note(reply)
        return reply

    def message(self, data: bytes, connection: Connection) -> None:
        """Answer one message that came by TCP."""
        reply = answer(data, self.lookup, tcp=True)
        if isinstance(reply, Forward):
            reply = self._forward(reply, _LateMessage(self, connection), True)
        else:
            self.counts.note(reply)
        if reply is not None:
            connection.send(reply)

    def _forward(
        self, forward: Forward, late: _LateDatagram | _LateMessage, tcp: bool
    ) -> bytes | None:
        self.counts.forwarded += 1

        def deliver(reply: bytes) -> None:
            late.deliver(forward.whole(reply))

        reply = self._forwarder.ask(forward.query, deliver, late.client, tcp)
        if reply is None:
            return None
        whole = forward.whole(reply)
        self.counts.note(whole)
        return whole


class _LateDatagram:
    """Where a datagram's answer goes when it has come."""

    __slots__ = ("_answerer", "_sender", "_sock", "client")

    def __init__(self, answerer: Answerer, sender: Sender) -> None:
        self.client = sender[0]
        self._answerer = answerer
        self._sender = sender
        self._sock = answerer._sock

    def deliver(self, reply: bytes) -> None:
        self._answerer.counts.note(reply)
        try:
            if self._sock is not None:
                self._sock.sendto(reply, self._sender)
        except OSError:
            # The listener or the client is gone.
            return


class _LateMessage:
    """Where a TCP message's answer goes when it has come."""

    __slots__ = ("_answerer", "_connection", "client")

    def __init__(self, answerer: Answerer, connection: Connection) -> None:
        self.client = connection.client
        self._answerer = answerer
        self._connection = connection

    def deliver(self, reply: bytes) -> None:
        self._answerer.counts.note(reply)
        self._connection.send(reply)
