"""Whom the prober asks: those it may, at once when it may, and whoever asks us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address

from meshnet.agent.mtus import Mtus
from meshnet.agent.prober import Prober
from meshnet.agent.sockets import Datagrams, Listener, Receive, Serve
from meshnet.paths.liveness import Liveness
from meshnet.wire.probe import ANSWER, ASK, Probe

A, B = IPv4Address("10.213.0.1"), IPv4Address("10.213.0.2")


class Wire:
    """Sockets of a node whose peers are the test: what is sent lies here."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, str]] = []
        self.more = asyncio.Event()
        self.receive: Receive | None = None

    def datagrams(self, address: IPv4Address, received: Receive, bounced: Receive) -> Datagrams:
        self.receive = received
        return self

    async def listen(self, address: IPv4Address, serve: Serve) -> Listener:
        return self

    async def connect(self, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise ConnectionRefusedError

    def send(self, data: bytes, address: str) -> None:
        self.sent.append((Probe.parse(data).kind, address))
        self.more.set()

    def close(self) -> None:
        pass


@asynccontextmanager
async def probing(wire: Wire) -> AsyncIterator[Prober]:
    """A prober with peers a and b, of which b is held."""
    mtus = Mtus(1.0, lambda *_: None, lambda: None)
    prober = Prober(
        wire, Liveness(), lambda: "", lambda _: None, lambda *_: None, lambda _: None, mtus
    )
    prober.open(IPv4Address("10.213.0.9"))
    prober.set_peers({"a": A, "b": B})
    prober.hold({"b"})
    task = asyncio.create_task(prober.run())
    try:
        yield prober
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until_sent(wire: Wire, packet: tuple[int, IPv4Address]) -> None:
    async with asyncio.timeout(5):
        while (packet[0], str(packet[1])) not in wire.sent:
            wire.more.clear()
            await wire.more.wait()


async def test_nobody_is_asked_who_is_held_and_at_once_who_is_released() -> None:
    wire = Wire()
    async with probing(wire) as prober:
        await until_sent(wire, (ASK, A))
        assert {address for _, address in wire.sent} == {str(A)}
        prober.hold(set())
        await until_sent(wire, (ASK, B))


async def test_who_asks_us_is_answered_and_asked_though_it_is_held() -> None:
    wire = Wire()
    async with probing(wire):
        await until_sent(wire, (ASK, A))
        assert wire.receive is not None
        wire.receive(Probe(ASK, 1, "").pack(), str(B))
        await until_sent(wire, (ANSWER, B))
        await until_sent(wire, (ASK, B))
