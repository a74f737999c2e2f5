"""A storm of joins, one change to many TLS streams (÷ nats-server with TLS), memory per stream.

    python -m tests.bench.coordinator [--nodes 1000] [--rounds 3] [--changes 20]

The coordinator is a process of its own, and so is nats-server; this process plays all nodes, each
with a TLS connection for requests and one for its stream. Connections are made before the clock
starts. CPU is what the server's process used, from /proc; the signatures and key exchanges in it
are measured apart, by doing as many of them here. C1 sends a change by one node and notes when each
stream has it, for both servers by turns.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import ssl
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from meshnet.coordinator.tls import make_certificate
from meshnet.model.keys import PrivateKey, SigningKey
from meshnet.model.records import NodeRecord
from meshnet.wire import api, auth, codec
from meshnet.wire.fact import seal, sign
from meshnet.wire.token import Token
from tests.scenes.coordinators import Coordinator, free_port

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Usage:
    """What a process has used: CPU seconds, resident bytes."""

    pid: int
    cpu: float = 0.0
    rss: int = 0

    def read(self) -> tuple[float, int]:
        """Return CPU seconds and bytes since the last reading."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / TICKS
        rss = int(fields[21]) * PAGE
        used = (cpu - self.cpu, rss - self.rss)
        self.cpu, self.rss = cpu, rss
        return used


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Stream(asyncio.Protocol):
    """Reads a stream without end; notes when a marked text last came, and how many bytes."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.bytes = 0
        self.mark = b""
        self.seen = 0.0
        self.tail = b""
        self.ready = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        self.ready.set()
        if self.mark and self.mark in self.tail + data:
            self.seen = time.perf_counter()
            self.mark = b""
        self.tail = data[-64:]


@dataclass
class Node:
    """A node with a plain HTTP line over TLS."""

    number: int
    token: Token
    identity: SigningKey = field(default_factory=lambda: SigningKey(os.urandom(32)))
    wireguard: PrivateKey = field(default_factory=lambda: PrivateKey.from_random(os.urandom(32)))
    hello: api.Hello | None = None
    stream: Stream = field(default_factory=Stream)

    async def connect(self, host: str, port: int, context: ssl.SSLContext) -> None:
        self._reader, self._writer = await asyncio.open_connection(host, port, ssl=context)
        self.hello = codec.decode(await self._ask("GET", api.HELLO), api.Hello, "hello")

    def join_request(self) -> bytes:
        assert self.hello is not None
        claim = auth.JoinClaim(
            f"n{self.number}",
            self.identity.public,
            self.wireguard.public,
            self.token.secret,
            self.hello.challenge,
            self.token.pins[0],
        )
        transcript = claim.transcript()
        mac = auth.prove(self.wireguard, self.hello.ephemeral, transcript)
        return codec.encode(
            api.JoinRequest(
                claim.secret,
                claim.name,
                claim.identity,
                claim.wireguard,
                claim.challenge,
                self.identity.sign(transcript),
                mac,
            )
        )

    async def post(self, path: str, body: bytes, *, signed: bool = True) -> bytes:
        return await self._ask(
            "POST", path, body, self._header("POST", path, body) if signed else ""
        )

    def _header(self, method: str, path: str, body: bytes) -> str:
        line = auth.RequestLine(method, path, body, self.token.pins[0])
        header = auth.sign_request(self.identity, line, int(time.time()), os.urandom(16))
        return f"Authorization: {header}\r\n"

    async def _ask(self, method: str, path: str, body: bytes = b"", header: str = "") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{header}\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        status = int(answer.split(b" ", 2)[1])
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        text = await self._reader.readexactly(length)
        assert status == 200, text
        return text

    async def watch(self, host: str, port: int, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: self.stream, host, port, ssl=context)
        header = self._header("GET", api.WATCH, b"")
        transport.write(f"GET {api.WATCH} HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
        await self.stream.ready.wait()

    def close(self) -> None:
        self._writer.close()
        if self.stream.transport is not None:
            self.stream.transport.close()


async def in_turns(works: Sequence[object], at_once: int = 50) -> None:
    """Run coroutines, some at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(work: object) -> None:
        async with gate:
            await work  # type: ignore[misc]

    await asyncio.gather(*(one(work) for work in works))


def mathematics(count: int) -> float:
    """Return the CPU seconds of what a join must compute: verify, key exchange, sign, verify."""
    key, wireguard = SigningKey(os.urandom(32)), PrivateKey.from_random(os.urandom(32))
    other = PrivateKey.from_random(os.urandom(32)).public
    signature = key.sign(b"x" * 200)
    begun = time.process_time()
    for _ in range(count):
        key.public.verify(b"x" * 200, signature)
        _ = wireguard.public
        wireguard.shared_secret(other)
        key.sign(b"x" * 400)
    return time.process_time() - begun


async def storm(coordinator: Coordinator, nodes: list[Node], watchers: list[Node]) -> str:
    """All join at once, while those who joined before watch; return a line of the table."""
    usage = Usage(coordinator.pid)
    requests = [node.join_request() for node in nodes]
    before = sum(node.stream.bytes for node in watchers)
    usage.read()
    begun = time.perf_counter()
    answers = await asyncio.gather(
        *(n.post(api.JOIN, r, signed=False) for n, r in zip(nodes, requests, strict=True))
    )
    wall = time.perf_counter() - begun
    await asyncio.sleep(0.5)
    cpu, _ = usage.read()
    sums = mathematics(len(nodes))
    heard = sum(node.stream.bytes for node in watchers) - before + sum(map(len, answers))
    return (
        f"C2 {len(nodes)} joins, {len(watchers)} watching: {wall:.2f} s wall, {cpu:.2f} s CPU, "
        f"{cpu - sums:.2f} s beyond signatures ({sums:.2f} s), {heard / 1e9:.3f} GB sent"
    )


async def change(node: Node, nodes: list[Node], number: int) -> list[float]:
    """One node publishes; return after how many seconds each stream had it."""
    mark = f"bench-{number}-{os.getpid()}"
    record = NodeRecord((node.wireguard.public,), version=mark)
    body = codec.encode(api.PublishRequest((seal(sign(node.identity, record, time.time_ns())),)))
    for other in nodes:
        other.stream.mark, other.stream.seen = mark.encode(), 0.0
    begun = time.perf_counter()
    await node.post(api.PUBLISH, body)
    await seen([other.stream for other in nodes])
    return [other.stream.seen - begun for other in nodes]


async def seen(streams: Sequence[Stream], limit: float = 30.0) -> None:
    deadline = time.monotonic() + limit
    while any(not stream.seen for stream in streams):
        if time.monotonic() > deadline:
            raise AssertionError("a stream did not get the change")
        await asyncio.sleep(0.005)


class Nats:
    """nats-server with TLS, and as many subscribers."""

    def __init__(self, place: Path) -> None:
        key, certificate = make_certificate()
        (place / "nats.key").write_bytes(key)
        (place / "nats.crt").write_bytes(certificate)
        self.port = free_port()
        command = ["nats-server", "-a", "127.0.0.1", "-p", str(self.port), "--tls"]
        command += ["--tlscert", str(place / "nats.crt"), "--tlskey", str(place / "nats.key")]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.streams: list[Stream] = []

    async def subscribe(self, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        stream = Stream()
        transport, _ = await loop.create_connection(lambda: stream, "127.0.0.1", self.port)
        await stream.ready.wait()
        transport.pause_reading()
        tls = await loop.start_tls(transport, stream, context)
        assert tls is not None
        stream.transport = tls
        tls.write(b'CONNECT {"verbose":false}\r\nSUB change 1\r\nPING\r\n')
        self.streams.append(stream)

    async def connect(self, count: int, context: ssl.SSLContext) -> None:
        for _ in range(200):
            try:
                await self.subscribe(context)
                break
            except OSError:
                await asyncio.sleep(0.05)
        await in_turns([self.subscribe(context) for _ in range(count - 1)])
        await asyncio.sleep(1)

    async def change(self, number: int, size: int) -> list[float]:
        mark = f"bench-{number}-{os.getpid()}".encode()
        for stream in self.streams:
            stream.mark, stream.seen = mark, 0.0
        payload = mark.ljust(size, b".")
        begun = time.perf_counter()
        publisher = self.streams[0].transport
        assert publisher is not None
        publisher.write(b"PUB change %d\r\n%b\r\n" % (len(payload), payload))
        await seen(self.streams)
        return [stream.seen - begun for stream in self.streams]

    def close(self) -> None:
        for stream in self.streams:
            if stream.transport is not None:
                stream.transport.close()
        self.process.terminate()
        self.process.wait()


def percentiles(times: list[float]) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds."""
    ordered = sorted(times)
    return 1000 * statistics.median(ordered), 1000 * ordered[int(len(ordered) * 0.99)]


async def one_round(place: Path, count: int, changes: int) -> tuple[float, float]:
    """Run all benches once, on fresh servers; print, and return the ratios of C1."""
    context = client_context()
    coordinator = await asyncio.to_thread(Coordinator, place)
    nats = Nats(place) if shutil.which("nats-server") else None
    nodes: list[Node] = []
    try:
        await asyncio.to_thread(coordinator.start)
        token = coordinator.token(uses=2 * count + 1)
        host, _, port = coordinator.url.removeprefix("https://").partition(":")
        where = (host, int(port), context)
        nodes = [Node(number, token) for number in range(2 * count)]
        first, second = nodes[:count], nodes[count:]
        await in_turns([node.connect(*where) for node in first])
        print(await storm(coordinator, first, []))
        usage = Usage(coordinator.pid)
        usage.read()
        await in_turns([node.watch(*where) for node in first])
        await asyncio.sleep(1)
        _, grown = usage.read()
        print(f"C3 memory per idle TLS stream: {grown / count / 1024:.1f} kB")
        ratios = await fan_out(first, nats, changes, context)
        await in_turns([node.connect(*where) for node in second])
        print(await storm(coordinator, second, first))
        return ratios
    finally:
        for node in nodes:
            node.close()
        if nats is not None:
            nats.close()
        coordinator.close()


async def fan_out(
    nodes: list[Node], nats: Nats | None, changes: int, context: ssl.SSLContext
) -> tuple[float, float]:
    size = len(
        codec.encode(seal(sign(nodes[0].identity, NodeRecord((nodes[0].wireguard.public,)), 1)))
    )
    if nats is not None:
        await nats.connect(len(nodes), context)
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(changes):
        ours += await change(nodes[number % len(nodes)], nodes, number)
        await asyncio.sleep(0.05)
        if nats is not None:
            theirs += await nats.change(number, size)
            await asyncio.sleep(0.05)
    p50, p99 = percentiles(ours)
    print(f"C1 change to {len(nodes)} streams: p50 {p50:.1f} ms, p99 {p99:.1f} ms, ", end="")
    if not theirs:
        print("nats-server is not installed: no ratio")
        return 0.0, 0.0
    n50, n99 = percentiles(theirs)
    print(f"nats-server {n50:.1f} and {n99:.1f} ms: ratio {p50 / n50:.2f} and {p99 / n99:.2f}")
    return p50 / n50, p99 / n99


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--changes", type=int, default=20)
    options = parser.parse_args()
    print(f"{platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    ratios = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix=f"meshnet-{os.getpid()}-") as place:
            ratios.append(uvloop.run(one_round(Path(place), options.nodes, options.changes)))
    for name, column in zip(("p50", "p99"), zip(*ratios, strict=True), strict=True):
        low, high = min(column), max(column)
        print(f"C1 {name} ÷ nats-server: {statistics.median(column):.2f} [{low:.2f}–{high:.2f}]")


if __name__ == "__main__":
    main()
