"""Shell. Facts from peer to peer, over the mesh, with no coordinator in between.

TCP on the node's IPv4 mesh address, lines of JSON, one exchange a connection:

    asker                                        answerer
    {"vector": {writer: sequence, …}}        →
                                            ←   {"vector": {…}}
                                            ←   {"payload": …, "signature": …}  what the asker lacks
                                            ←   {}                               end
    {"payload": …}                           →   what the answerer lacks
    {}                                       →   end

Every fact is signed by its writer, so a peer is no more trusted than any other carrier. A node asks
when a probe's answer shows another digest than its own and no coordinator is there to explain it,
or the difference lasts; not again for a pair of digests that an exchange did not change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

import msgspec

from meshnet.agent.book import Book
from meshnet.agent.sockets import Listener, Sockets
from meshnet.errors import BadInput
from meshnet.model.facts import Fact
from meshnet.model.keys import IdentityKey
from meshnet.wire import codec
from meshnet.wire.fact import SignedFact, seal

log = logging.getLogger(__name__)

FACTS_LIMIT = 200_000
TIME_LIMIT = 30.0
BATCH = 256
PATIENCE = 5.0
"""Seconds a difference may last while a coordinator is there, before a peer is asked."""


class Vector(msgspec.Struct, frozen=True):
    """What a side knows: the highest sequence of every writer."""

    vector: dict[str, int]


class Exchange:
    """Answers peers, and asks them. `took` is called with what was news."""

    def __init__(
        self,
        sockets: Sockets,
        book: Book,
        took: Callable[[list[Fact]], None],
        connected: Callable[[], bool],
    ) -> None:
        self._sockets = sockets
        self._book = book
        self._took = took
        self._connected = connected
        self._server: Listener | None = None
        self._wanted: asyncio.Queue[tuple[str, str]] = asyncio.Queue(maxsize=1)
        self._fruitless: set[frozenset[str]] = set()
        self._differs_since: float | None = None

    async def open(self, address: IPv4Address) -> None:
        """Serve on the node's mesh address."""
        await self.close()
        self._server = await self._sockets.listen(address, self._serve)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def told(self, address: str, digest: str) -> None:
        """A peer's probe carried this digest: ask that peer if there is something to learn."""
        mine = self._book.facts.digest
        if digest == mine:
            self._differs_since = None
            return
        now = asyncio.get_running_loop().time()
        self._differs_since = self._differs_since or now
        settled = now - self._differs_since >= PATIENCE * random.uniform(1.0, 2.0)
        if frozenset({mine, digest}) in self._fruitless or (self._connected() and not settled):
            return
        with contextlib.suppress(asyncio.QueueFull):
            self._wanted.put_nowait((address, digest))

    async def run(self) -> None:
        """Ask peers as `told` finds reason to."""
        try:
            while True:
                address, digest = await self._wanted.get()
                try:
                    async with asyncio.timeout(TIME_LIMIT):
                        await self._ask(address, digest)
                except (OSError, TimeoutError, BadInput, ValueError) as error:
                    log.info("exchange with %s failed: %s", address, error)
                    await asyncio.sleep(random.uniform(0.2, 1.0))
        finally:
            await self.close()

    async def _ask(self, address: str, digest: str) -> None:
        before = self._book.facts.digest
        reader, writer = await self._sockets.connect(address)
        try:
            _send(writer, self._vector())
            theirs = _vector(await _line(reader))
            await self._receive(reader, address)
            await self._give(writer, self._book.facts.since(theirs))
        finally:
            writer.close()
        if self._book.facts.digest == before:
            if len(self._fruitless) > 1000:
                self._fruitless.clear()
            self._fruitless.add(frozenset({before, digest}))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = str(writer.get_extra_info("peername")[0])
        try:
            async with asyncio.timeout(TIME_LIMIT):
                theirs = _vector(await _line(reader))
                _send(writer, self._vector())
                await self._give(writer, self._book.facts.since(theirs))
                await self._receive(reader, address)
        except (OSError, TimeoutError, BadInput, ValueError) as error:
            log.info("exchange asked for by %s failed: %s", address, error)
        finally:
            writer.close()

    def _vector(self) -> bytes:
        vector = self._book.facts.vector()
        return codec.encode(Vector({str(writer): high for writer, high in vector.items()}))

    async def _give(self, writer: asyncio.StreamWriter, facts: Iterable[Fact]) -> None:
        for fact in facts:
            _send(writer, codec.encode(seal(fact)))
            await writer.drain()
        _send(writer, b"{}")
        await writer.drain()

    async def _receive(self, reader: asyncio.StreamReader, address: str) -> None:
        batch: list[SignedFact] = []
        for _ in range(FACTS_LIMIT):
            line = await _line(reader)
            if line == b"{}":
                self._take(batch, address)
                return
            batch.append(codec.decode(line, SignedFact, "fact"))
            if len(batch) >= BATCH:
                self._take(batch, address)
                batch = []
                await asyncio.sleep(0)
        raise BadInput(f"peer {address} sends more than {FACTS_LIMIT} facts")

    def _take(self, batch: list[SignedFact], address: str) -> None:
        news = self._book.take(batch, f"peer {address}")
        if news:
            self._took(news)


def _send(writer: asyncio.StreamWriter, line: bytes) -> None:
    writer.write(line + b"\n")


async def _line(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise BadInput("the other side hung up in the middle")
    return line.rstrip(b"\n")


def _vector(line: bytes) -> dict[IdentityKey, int]:
    vector = codec.decode(line, Vector, "vector")
    return {IdentityKey.parse(writer): high for writer, high in vector.vector.items()}
