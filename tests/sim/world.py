"""Shell. The simulated world: a real coordinator on loopback, real agents' parts over fake kernels.

Everything of the product runs but what touches the machine: kernels are `FakeKernel`s, the agents'
sockets are `Wires`, namespaces of containers are files. Agents are killed by cancelling all their
tasks at once; what they had on disk is all that the next one finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import shutil
import socket
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path

from meshnet.agent.client import CoordinatorClient
from meshnet.agent.desk import Desk
from meshnet.agent.enrol import enrol
from meshnet.agent.machine import Machine
from meshnet.agent.node import MeshNode
from meshnet.agent.storage import StateDir
from meshnet.agent.uplink import Uplink
from meshnet.coordinator.admin_client import AdminClient
from meshnet.coordinator.config import SOCKET, Directory
from meshnet.coordinator.core import Terms
from meshnet.coordinator.main import Coordinator
from meshnet.coordinator.setup import initialise
from meshnet.coordinator.sql import migrate
from meshnet.errors import MeshnetError, NotFound
from meshnet.linux.underlay import UnderlayAddress
from meshnet.model.keys import PublicKey
from meshnet.wire.local import Attached, AttachRequest, ServiceRequest
from tests.fakes.kernel import FakeKernel
from tests.sim.underlay import SimSockets, Wires

PROBES_PER_SECOND = 2.0
PAUSE = 0.02
JOINS_AT_ONCE = 4
STARTS_AT_ONCE = 20


@dataclass
class SimNode:
    """One machine: what survives its agent is the kernel, the files and the wires."""

    name: str
    state: StateDir
    number: int
    kernel: FakeKernel = field(default_factory=FakeKernel)
    address: str = ""
    ipv6: bool = True
    node: MeshNode | None = None
    desk: Desk | None = None
    task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.roam(0)

    def roam(self, site: int) -> None:
        """Move to another underlay address."""
        host = self.number + 2
        self.address = f"198.{18 + site % 2}.{host // 250}.{host % 250 + 1}/15"
        if self.node is not None:
            self.node.underlay_changed()

    def underlay(self) -> list[UnderlayAddress]:
        return [UnderlayAddress("eth0", 1500, ip_interface(self.address))]

    @functools.cached_property
    def key(self) -> PublicKey:
        """The node's WireGuard key."""
        return self.state.keys()[1].public

    @property
    def running(self) -> bool:
        return self.task is not None

    @property
    def speaks(self) -> bool:
        """Whether the node has said its own record, so that the others take it in."""
        return self.node is not None and self.node.me is not None and bool(self.node.me.record)


class World:
    """A coordinator and its nodes."""

    def __init__(self, terms: Terms | None = None) -> None:
        shm = Path("/dev/shm")
        self.directory = Path(
            tempfile.mkdtemp(prefix="meshnet-sim-", dir=shm if shm.is_dir() else None)
        )
        self.wires = Wires()
        self.nodes: dict[str, SimNode] = {}
        self.uplinks: dict[str, Uplink] = {}
        self._coordinator: Coordinator | None = None
        self._serving: asyncio.Task[None] | None = None
        self._containers = itertools.count()
        self._port = _free_port()
        initialise(
            self.directory / "coordinator",
            urls=[f"https://127.0.0.1:{self._port}"],
            listen=[f"127.0.0.1:{self._port}"],
            terms=terms,
        )

    # The coordinator

    async def start_coordinator(self) -> None:
        directory = Directory(self.directory / "coordinator")
        migrate(directory.store)
        self._coordinator = Coordinator(directory, directory.config(), self.directory / SOCKET)
        self._serving = asyncio.ensure_future(self._coordinator.run())
        async with asyncio.timeout(20):
            while not (self.directory / SOCKET).exists():
                assert not self._serving.done(), self._serving
                await asyncio.sleep(PAUSE)

    async def stop_coordinator(self) -> None:
        assert self._coordinator is not None
        assert self._serving is not None
        self._coordinator.stop()
        await self._serving

    async def token(self, uses: int) -> str:
        admin = AdminClient(self.directory / SOCKET)
        made = await asyncio.to_thread(admin.create_token, 3600, uses)
        return made.text

    async def create_network(self, name: str, by: str) -> None:
        uplink = self.uplinks[by]
        await uplink.create_network(name, (), flood=False)

    # Nodes

    async def join(self, token: str, names: Sequence[str]) -> None:
        """Enrol machines; when all have joined, start their agents, a few at a time.

        One loop runs them all: what a machine does in a moment, two hundred at once do in a time
        in which nobody is answered.
        Joining is done in threads of its own: those of the loop are the coordinator's, which
        commits in them.
        """
        sims = [
            SimNode(name, StateDir(self.directory / name), number)
            for number, name in enumerate(names, len(self.nodes))
        ]
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(JOINS_AT_ONCE) as threads:
            await asyncio.gather(
                *(
                    loop.run_in_executor(threads, _enrol, sim.state.path, token, sim.name)
                    for sim in sims
                )
            )
        for start in range(0, len(sims), STARTS_AT_ONCE):
            for sim in sims[start : start + STARTS_AT_ONCE]:
                self.nodes[sim.name] = sim
                self.start(sim)
            while not all(sim.speaks for sim in sims[start : start + STARTS_AT_ONCE]):  # noqa: ASYNC110
                await asyncio.sleep(PAUSE)

    def start(self, sim: SimNode) -> None:
        """Start an agent over what is there."""
        machine = Machine(
            sim.kernel,
            sim.underlay,
            lambda preferred: preferred,
            _inode,
            "boot",
            SimSockets(self.wires, sim.kernel),
            PROBES_PER_SECOND,
            sim.ipv6,
        )
        sim.node = MeshNode(sim.state, machine)
        settings = sim.node.settings
        client = CoordinatorClient(settings.urls, settings.pins, sim.node.identity)
        uplink = Uplink(sim.node, client)
        self.uplinks[sim.name] = uplink
        sim.desk = Desk(sim.node, uplink)
        sim.task = asyncio.ensure_future(_live(sim.node, uplink, client))

    async def kill(self, sim: SimNode) -> None:
        """End an agent as kill -9 does: no farewell."""
        assert sim.task is not None
        sim.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sim.task
        sim.node = sim.desk = sim.task = None

    # Containers

    async def attach(self, sim: SimNode, network: str, service: str = "") -> Attached:
        """Start a container and attach it."""
        assert sim.desk is not None
        path = self.directory / f"netns-{next(self._containers)}"
        path.touch()
        sim.kernel.namespaces[str(path)] = path.stat().st_ino
        request = AttachRequest(netns=str(path), network=network, service=service)
        return await sim.desk.attach(request)

    def end_container(self, sim: SimNode, netns: str) -> None:
        """End a container without a word to the agent."""
        Path(netns).unlink()
        sim.kernel.end_container(netns)

    def add_service(self, sim: SimNode, network: str, name: str, service: str) -> None:
        assert sim.desk is not None
        sim.desk.add_service(ServiceRequest(service=service, network=network, attachment=name))

    async def close(self) -> None:
        running = [sim.task for sim in self.nodes.values() if sim.task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._serving is not None and not self._serving.done():
            await self.stop_coordinator()
        shutil.rmtree(self.directory)


async def _live(node: MeshNode, uplink: Uplink, client: CoordinatorClient) -> None:
    async def events() -> None:
        async for _ in node.machine.kernel.events():
            node.reconciler.doubt()
            node.changed()

    try:
        await node.run(uplink.run, events)
    finally:
        with contextlib.suppress(MeshnetError):
            await client.close()


def _enrol(state_dir: Path, token: str, name: str) -> None:
    enrol(state_dir, token, name=name, host_networks=())


def _inode(path: str) -> int:
    """Files are the namespaces of this world."""
    try:
        return Path(path).stat().st_ino
    except FileNotFoundError as error:
        raise NotFound(f"namespace {path} is gone") from error


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
