"""Whom the prober asks: those it may, at once when it may, and whoever asks us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address

from meshnet.agent.mtus import Mtus
from meshnet.agent.prober import Prober
from meshnet.agent.sockets import Datagrams, Listener, MeshSockets, Receive, Serve
from meshnet.paths.liveness import ANSWER_LIMIT, Liveness
from meshnet.wire.probe import ANSWER, ASK, HINT_MAGIC, Hint, Probe

A, B = IPv4Address("10.213.0.1"), IPv4Address("10.213.0.2")


class Wire:
    """Sockets of a node whose peers are the test: what is sent lies here."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, str]] = []
        self.hints: list[tuple[str, str]] = []
        self.echoed: list[str] = []
        self.alive: set[str] = set()
        self.deaf: set[str] = set()
        self.more = asyncio.Event()
        self.receive: Receive | None = None
        self.bounce: Receive | None = None

    def datagrams(self, address: IPv4Address, received: Receive, bounced: Receive) -> Datagrams:
        self.receive, self.bounce = received, bounced
        return self

    async def listen(self, address: IPv4Address, serve: Serve) -> Listener:
        return self

    async def connect(self, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise ConnectionRefusedError

    def send(self, data: bytes, address: str) -> None:
        if data.startswith(HINT_MAGIC):
            self.hints += [(str(one), address) for one in Hint.parse(data).addresses]
        else:
            probe = Probe.parse(data)
            self.sent.append((probe.kind, address))
            if probe.kind == ASK and address in self.alive:
                assert self.receive is not None
                self.receive(Probe(ANSWER, probe.nonce, "").pack(), address)
        self.more.set()

    def echo(self, data: bytes, address: str) -> None:
        self.echoed.append(address)
        if address in self.deaf:
            assert self.bounce is not None
            self.bounce(data, address)
        self.more.set()

    def close(self) -> None:
        pass


@asynccontextmanager
async def probing(wire: Wire, probes_per_second: float = 10) -> AsyncIterator[Prober]:
    """A prober with peers a and b, of which b is held."""
    mtus = Mtus(1.0, lambda *_: None, lambda: None)
    liveness = Liveness(probes_per_second)
    prober = Prober(
        wire, liveness, lambda: "", lambda _: None, lambda *_: None, lambda _: None, mtus
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
    await until(wire, lambda: (packet[0], str(packet[1])) in wire.sent)


async def until(wire: Wire, true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
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


async def test_who_finds_a_peer_gone_in_a_large_mesh_tells_the_others_unless_it_was_told() -> None:
    wire = Wire()
    async with probing(wire, probes_per_second=1.5) as prober:
        wire.alive = {str(A), str(B)}
        prober.hold(set())
        await until(wire, lambda: prober.liveness.reachable == {"a", "b"})
        wire.alive = {str(B)}
        await until(wire, lambda: prober.liveness.reachable == {"b"})
        assert wire.hints == [(str(A), str(B))]

        wire.alive = {str(A), str(B)}
        await until(wire, lambda: prober.liveness.reachable == {"a", "b"})
        wire.alive = {str(B)}
        assert wire.receive is not None
        await asyncio.sleep(2 * ANSWER_LIMIT)
        wire.receive(Hint((A,)).pack(), str(B))
        await until(wire, lambda: prober.liveness.reachable == {"b"})
        assert wire.hints == [(str(A), str(B))]


async def test_the_kernel_of_a_peer_that_misses_an_answer_is_asked_and_believed() -> None:
    wire = Wire()
    async with probing(wire) as prober:
        wire.alive = {str(A)}
        await until(wire, lambda: prober.liveness.reachable == {"a"})
        assert wire.echoed == []

        wire.alive, wire.deaf = set(), {str(A)}
        await until(wire, lambda: len(wire.echoed) >= 2)
        assert prober.liveness.reachable == {"a"}

        wire.deaf = set()
        await until(wire, lambda: not prober.liveness.reachable)


async def test_a_bounce_is_heard_of_although_its_error_went_to_the_next_who_sent() -> None:
    """Else the socket stays readable for ever, and the agent awake."""
    here, nobody = IPv4Address("127.82.1.1"), "127.82.1.2"
    bounced: asyncio.Future[tuple[bytes, str]] = asyncio.get_running_loop().create_future()
    udp = MeshSockets().datagrams(here, lambda *_: None, lambda *what: bounced.set_result(what))
    try:
        udp.send(b"first", nobody)
        udp.send(b"second", nobody)
        async with asyncio.timeout(5):
            assert await bounced == (b"first", nobody)
    finally:
        udp.close()
