"""Shell. The feed: every change, to every watching node, encoded once.

    commit ─Change→ Feed ─(at most one line each 30 ms)→ transport of each stream

A stream is brought up to date by its own task, which waits for the socket; from then on lines are
written straight to the transport, since at a thousand streams the TCP send is all the cost there
is. A stream whose reader is so slow that its buffer passes a limit is dropped: the node comes back
and resumes from its revision. When the last stream of a node breaks and none comes back within a
second, the others are told that it may be gone. That is a hint: they look for themselves.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterable, Iterator, Sequence

from aiohttp import web
from msgspec.structs import replace
from prometheus_client import Counter, Gauge

from meshnet.coordinator.world import Change, World
from meshnet.model.facts import Fact
from meshnet.model.keys import IdentityKey
from meshnet.model.statements import Membership, Revocation
from meshnet.wire import codec
from meshnet.wire.api import BEAT_SECONDS, Line
from meshnet.wire.fact import SignedFact, seal

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.03
SUSPECT_SECONDS = 1.0
BUFFER_LIMIT = 1024 * 1024
SNAPSHOT_STEP = 500
SLICE = 4 * 1024
CATCH_UP_SECONDS = 60.0
STREAMS_PER_NODE = 4
UNANSWERED_MS = 20_000

STREAMS = Gauge("meshnet_streams", "Watching streams open")
DROPPED = Counter("meshnet_streams_dropped", "Streams dropped because their reader was too slow")
LINES = Counter("meshnet_lines", "Lines encoded for all streams")
SUSPECTS = Counter("meshnet_suspects", "Nodes whose stream broke and did not come back")


class Stream:
    """One node's stream, live: `write` never waits."""

    def __init__(self, member: Membership, transport: asyncio.WriteTransport) -> None:
        self.member = member
        self.ended = asyncio.Event()
        self._transport = transport

    def write(self, chunk: bytes) -> None:
        """Send one chunk, or drop a reader that does not keep up."""
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > BUFFER_LIMIT:
            DROPPED.inc()
            log.warning("stream of node %s dropped: it does not read", self.member.name)
            self._transport.abort()
            return
        for start in range(0, len(chunk), SLICE):
            self._transport.write(chunk[start : start + SLICE])

    def close(self) -> None:
        """Let the handler end the body in good order."""
        self.ended.set()


class Feed:
    """All streams."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._streams: dict[Stream, None] = {}
        self._by_node: dict[str, int] = {}
        self._sent = world.revision
        self._dirty = asyncio.Event()
        self._closing = False
        self._forgotten: list[IdentityKey] = []
        self._snapshot: tuple[int, list[bytes]] = (-1, [])
        self._suspicions: set[asyncio.Task[None]] = set()

    def changed(self, change: Change) -> None:
        """Note a commit; the lines follow soon."""
        self._forgotten += change.forgotten
        self._dirty.set()
        revoked = {f.body.identity for f in change.facts if isinstance(f.body, Revocation)}
        self._drop(revoked.union(change.forgotten))

    def _drop(self, identities: set[IdentityKey]) -> None:
        for stream in list(self._streams):
            if stream.member.identity in identities:
                stream.close()

    async def run(self) -> None:
        """Send what changes, and beats, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_changes())
            group.create_task(self._beat())

    async def _send_changes(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            facts = self._world.since(self._sent)
            forgotten, self._forgotten = tuple(self._forgotten), []
            self._sent = self._world.revision
            self._broadcast(replace(self._line(facts), forgotten=forgotten))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self._broadcast(Line(beat=int(time.time())))

    def _broadcast(self, line: Line) -> None:
        chunk = chunked(encoded(line))
        LINES.inc()
        for stream in self._streams:
            stream.write(chunk)

    def _line(self, facts: Iterable[Fact], *, store: str = "") -> Line:
        return Line(
            store=store,
            revision=self._world.revision,
            digest=self._world.facts.digest,
            facts=tuple(seal(fact) for fact in facts),
        )

    # One stream

    async def serve(
        self, request: web.Request, member: Membership, revision: int | None, store: str
    ) -> web.StreamResponse:
        """Hold one stream until either side ends it."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        known = revision if store == self._world.store else None
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS):
                at = await self._first_lines(response, known)
                await write_out(response, encoded(Line(seen=request.remote or "")))
                while at < self._sent:
                    at = await self._first_lines(response, at)
        except TimeoutError:
            DROPPED.inc()
            log.warning("stream of node %s dropped: it does not read", member.name)
            if request.transport is not None:
                request.transport.abort()
            return response
        if request.transport is not None and not self._closing:
            _end_when_unanswered(request.transport)
            self._end_surplus(member.node)
            await self._hold(Stream(member, request.transport))
        return response

    async def _first_lines(self, response: web.StreamResponse, known: int | None) -> int:
        """Send a delta from `known` where possible, else a snapshot; return where it ends."""
        if known is not None and self._world.knows(known):
            facts, at = self._world.since(known), self._world.revision
            await write_out(response, encoded(self._line(facts, store=self._world.store)))
            return at
        at, lines = self._snapshot_lines()
        for line in lines:
            await write_out(response, line)
        return at

    def _snapshot_lines(self) -> tuple[int, list[bytes]]:
        """Return the lines of a snapshot, made once for each revision."""
        if self._snapshot[0] != self._world.revision:
            facts = [seal(fact) for fact in self._world.facts]
            end = Line(
                store=self._world.store,
                snapshot=True,
                revision=self._world.revision,
                digest=self._world.facts.digest,
            )
            parts = [
                Line(store=end.store, snapshot=True, more=True, facts=tuple(part))
                for part in _pieces(facts, SNAPSHOT_STEP)
            ]
            self._snapshot = (self._world.revision, [encoded(line) for line in [*parts, end]])
        return self._snapshot

    async def _hold(self, stream: Stream) -> None:
        """Keep a live stream until it is closed or, by cancellation, broken."""
        node = stream.member.node
        self._streams[stream] = None
        self._by_node[node] = self._by_node.get(node, 0) + 1
        STREAMS.inc()
        try:
            await stream.ended.wait()
        finally:
            STREAMS.dec()
            del self._streams[stream]
            self._by_node[node] -= 1
            if not self._by_node[node]:
                del self._by_node[node]
                self._watch_for(node)

    def _end_surplus(self, node: str) -> None:
        """A node needs one stream; the oldest of too many ends."""
        mine = [stream for stream in self._streams if stream.member.node == node]
        for stream in mine[: max(0, len(mine) + 1 - STREAMS_PER_NODE)]:
            stream.close()

    def _watch_for(self, node: str) -> None:
        """Tell the others when a node stays away."""
        if self._closing:
            return
        task = asyncio.create_task(self._suspect(node))
        self._suspicions.add(task)
        task.add_done_callback(self._suspicions.discard)

    async def _suspect(self, node: str) -> None:
        await asyncio.sleep(SUSPECT_SECONDS)
        if node not in self._by_node and not self._closing:
            SUSPECTS.inc()
            self._broadcast(Line(suspect=node))

    @property
    def nodes(self) -> frozenset[str]:
        """The nodes that are watching."""
        return frozenset(self._by_node)

    async def close(self) -> None:
        """End all streams in good order; the nodes come back to whoever answers."""
        self._closing = True
        for task in list(self._suspicions):
            task.cancel()
        for stream in list(self._streams):
            stream.close()


async def write_out(response: web.StreamResponse, data: bytes) -> None:
    """Write as fast as the socket takes it, in slices.

    A TLS connection keeps, for its life, a buffer as large as the largest piece ever written to it.
    """
    for start in range(0, len(data), SLICE):
        await response.write(data[start : start + SLICE])


def _end_when_unanswered(transport: asyncio.BaseTransport) -> None:
    """Let the kernel end a connection whose other end is silent (tcp(7), TCP_USER_TIMEOUT)."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)


def encoded(line: Line) -> bytes:
    """Return a line's bytes with its end."""
    return codec.encode(line) + b"\n"


def chunked(data: bytes) -> bytes:
    """Return one chunk of a chunked body (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _pieces(facts: Sequence[SignedFact], size: int) -> Iterator[Sequence[SignedFact]]:
    for start in range(0, len(facts), size):
        yield facts[start : start + size]
