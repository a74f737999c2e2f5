"""Shell. A coordinator of its own for each scene: a real process, TLS on loopback, a new mesh."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

from meshnet.agent.client import CoordinatorClient
from meshnet.agent.joiner import join
from meshnet.coordinator.admin_client import AdminClient
from meshnet.coordinator.core import Terms
from meshnet.coordinator.setup import Initialised, initialise
from meshnet.errors import MeshnetError, Unavailable
from meshnet.model.facts import Fact, FactSet
from meshnet.model.keys import PrivateKey, SigningKey
from meshnet.model.records import NodeRecord, Record
from meshnet.model.view import View, Viewer
from meshnet.wire.api import Granted, Joined, Line, Published
from meshnet.wire.fact import SignedFact, open_fact, seal, sign, sign_deletion
from meshnet.wire.token import Token, read_token

START_SECONDS = 30.0
RUN = (
    "import sys; from pathlib import Path; from meshnet.coordinator.main import run; "
    "run(Path(sys.argv[1]), Path(sys.argv[2]), 'info')"
)


class Coordinator:
    """A coordinator process and its directories."""

    RUN = RUN

    def __init__(self, place: Path, terms: Terms | None = None) -> None:
        self.state_dir, self.run_dir, self.log = place / "state", place / "run", place / "log"
        self.made: Initialised = initialise(
            self.state_dir,
            [f"https://127.0.0.1:{free_port()}"],
            listen=[],
            terms=terms,
        )
        self.admin = AdminClient(self.run_dir / "coordinator.sock")
        self.started = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.made.urls[0]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", self.RUN, str(self.state_dir), str(self.run_dir)], stderr=log
            )
        self.started = time.time()
        limit = time.monotonic() + START_SECONDS
        while True:
            try:
                self.admin.status()
                return
            except Unavailable:
                if time.monotonic() > limit or self._process.poll() is not None:
                    raise AssertionError(f"no start:\n{self.log.read_text()}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """End it the hard way: kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """End it the way systemd does; return its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=20)

    def limit_file_size(self, size: int | None) -> None:
        """Let the process write no file beyond `size` bytes, as if the disk were full there."""
        assert self._process is not None
        _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        soft = hard if size is None else size
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (soft, hard))

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def token(self, ttl: int = 600, uses: int = 1, tags: tuple[str, ...] = ()) -> Token:
        return read_token(self.admin.create_token(ttl, uses, tags).text)

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """What a request that changes nothing leaves as it was."""
        uses = [(token.id, token.used, token.state) for token in self.admin.tokens()]
        return self.admin.status().revision, uses, [node.name for node in self.admin.nodes()]


@contextlib.contextmanager
def running(place: Path, terms: Terms | None = None) -> Iterator[Coordinator]:
    """A coordinator for the time of a `with`."""
    coordinator = Coordinator(place, terms)
    try:
        coordinator.start()
        yield coordinator
    finally:
        coordinator.close()


class Node:
    """A node as far as coordinators can see."""

    def __init__(self, name: str, token: Token, identity: SigningKey | None = None) -> None:
        self.name = name
        self.token = token
        self.identity = identity or SigningKey(os.urandom(32))
        self.wireguard = PrivateKey.from_random(os.urandom(32))
        self.client = CoordinatorClient(token.urls, token.pins, self.identity)
        self.facts = FactSet()
        self._sequence = time.time_ns() // 1000

    @property
    def id(self) -> str:
        return self.identity.public.node_id

    async def join(self) -> Joined:
        claim = (self.token, self.name, self.identity, self.wireguard)
        joined = await asyncio.to_thread(join, *claim)
        self.take(joined.facts)
        return joined

    def take(self, signed: Sequence[SignedFact]) -> list[Fact]:
        return self.facts.merge([open_fact(fact) for fact in signed])

    def granted(self, granted: Granted) -> list[Fact]:
        self.take(granted.facts)
        return [open_fact(fact) for fact in granted.facts]

    def say(self, body: Record) -> Fact:
        self._sequence += 1
        return sign(self.identity, body, self._sequence)

    def take_back(self, kind: str, key: str) -> Fact:
        self._sequence += 1
        return sign_deletion(self.identity, kind, key, self._sequence)

    async def publish(self, *bodies: Record) -> Published:
        return await self.client.publish([seal(self.say(body)) for body in bodies])

    def record(self, port: int = 0) -> NodeRecord:
        return NodeRecord((self.wireguard.public,), version=f"v{port}")

    def view(self) -> View:
        return Viewer(self.token.root).view(self.facts, list(self.facts), time.time())


@contextlib.asynccontextmanager
async def joined(coordinator: Coordinator, *names: str) -> AsyncIterator[list[Node]]:
    """Nodes that have joined."""
    token = coordinator.token(uses=len(names))
    nodes = [Node(name, token) for name in names]
    try:
        for node in nodes:
            await node.join()
        yield nodes
    finally:
        for node in nodes:
            await node.client.close()


class Follower:
    """Follows a stream, keeps the coordinator's facts, and checks each digest against them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.mirror = FactSet()
        self.store = ""
        self.revision: int | None = None
        self.snapshots = 0
        self.suspects: list[str] = []
        self.lines: list[Line] = []
        self._snapshot: list[Fact] = []

    async def follow(self) -> None:
        """Follow until the stream ends."""
        async for line in self.node.client.watch(self.revision, self.store):
            self.take(line)

    async def follow_for_ever(self) -> None:
        """Come back whenever the stream ends."""
        while True:
            with contextlib.suppress(MeshnetError):
                await self.follow()
            await asyncio.sleep(0.05)

    def take(self, line: Line) -> None:
        self.lines.append(line)
        self.store = line.store or self.store
        facts = [open_fact(fact) for fact in line.facts]
        for writer in line.forgotten:
            self.mirror.forget(writer)
        if line.snapshot:
            self._snapshot += facts
            if line.more:
                return
            self.mirror, self._snapshot = FactSet(self._snapshot), []
            self.snapshots += 1
        else:
            self.mirror.merge(facts)
        if line.revision is not None:
            self.revision = line.revision
        if line.digest:
            assert line.digest == self.mirror.digest, "the digest is not that of the facts"
        if line.suspect:
            self.suspects.append(line.suspect)

    def knows(self, fact: Fact) -> bool:
        return self.mirror.get(fact.slot) == fact


async def until(predicate: Callable[[], object], what: str, limit: float = 10.0) -> None:
    """Let the loop run until something is true."""
    deadline = time.monotonic() + limit
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit:g} s: {what}")
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def following(node: Node) -> AsyncIterator[Follower]:
    """A follower that is up to date, and stays so as long as the coordinator lives."""
    follower = Follower(node)
    task = asyncio.create_task(follower.follow_for_ever())
    try:
        await until(lambda: follower.revision is not None or task.done(), "first lines")
        yield follower
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
