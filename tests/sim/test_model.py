"""The mesh against a model: whatever happens in whatever order, every kernel ends as it should.

Hypothesis draws legal moves: attach, detach, a container that ends without a word, services, an
agent killed and started, the coordinator stopped and started, facts that come again in another
order, state tampered with behind the agent's back, a machine that moves. The model is a dictionary
of what is attached where. After each move the world is given time to come to rest, and then every
agent's kernel must equal what the model says: nothing less, and nothing more.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshnet.plan.diff import plan
from meshnet.plan.state import VXLAN
from meshnet.wire.fact import seal
from tests.sim.world import SimNode, World

T = TypeVar("T")

NETWORKS = ("default", "back")
MOVE_LIMIT = 400.0
BUILD_LIMIT = 240.0
PAUSE = 0.05


@dataclass(frozen=True)
class Expected:
    """One attachment, as the model knows it."""

    node: str
    network: str
    name: str
    addresses: frozenset[str]
    mac: str
    netns: str
    service: str = ""


class MeshModel(RuleBasedStateMachine):
    """Moves of the world, and what must be so after each."""

    count = 6
    rest_limit = 60.0

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.loop = asyncio.new_event_loop()
        self.model: dict[tuple[str, str, str], Expected] = {}
        self.coordinator_up = True

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a move to its end; one that takes too long fails with what everybody waits for."""

        async def limited() -> T:
            try:
                async with asyncio.timeout(MOVE_LIMIT):
                    return await work
            except TimeoutError:
                for task in asyncio.all_tasks():
                    task.print_stack(limit=3)
                raise

        return self.loop.run_until_complete(limited())

    @initialize()
    def build(self) -> None:
        async def start() -> None:
            await self.world.start_coordinator()
            token = await self.world.token(self.count)
            await self.world.join(token, [f"n{number}" for number in range(self.count)])
            await self._rest(BUILD_LIMIT)
            await self.world.create_network("back", by="n0")

        self.do(start())

    # Moves

    def pick(self, number: int) -> SimNode:
        """Return a node whose agent runs."""
        running = [sim for sim in self.world.nodes.values() if sim.running]
        return running[number % len(running)]

    def pick_attached(self, number: int) -> Expected | None:
        owned = [
            item for _, item in sorted(self.model.items()) if self.world.nodes[item.node].running
        ]
        return owned[number % len(owned)] if owned else None

    @rule(
        number=st.integers(0, 999),
        network=st.sampled_from(NETWORKS),
        service=st.sampled_from(["", "web"]),
    )
    @precondition(lambda self: self.coordinator_up)
    def attach(self, number: int, network: str, service: str) -> None:
        sim = self.pick(number)
        given = self.do(self.world.attach(sim, network, service))
        item = next(i for i in sim.node.attachments if (i.network, i.name) == (network, given.name))  # type: ignore[union-attr]
        addresses = frozenset(str(ip_interface(text).ip) for text in given.addresses)
        self.model[sim.name, network, given.name] = Expected(
            sim.name, network, given.name, addresses, given.mac, item.netns, service
        )

    @rule(number=st.integers(0, 999))
    def detach(self, number: int) -> None:
        item = self.pick_attached(number)
        if item is not None:
            desk = self.world.nodes[item.node].desk
            assert desk is not None
            self.do(desk.detach(item.network, item.name))
            del self.model[item.node, item.network, item.name]

    @rule(number=st.integers(0, 999))
    def a_container_ends_without_a_word(self, number: int) -> None:
        item = self.pick_attached(number)
        if item is not None:
            self.world.end_container(self.world.nodes[item.node], item.netns)
            del self.model[item.node, item.network, item.name]

    @rule(number=st.integers(0, 999))
    @precondition(lambda self: sum(sim.running for sim in self.world.nodes.values()) > 2)
    def kill_an_agent(self, number: int) -> None:
        self.do(self.world.kill(self.pick(number)))

    @rule()
    def start_the_killed_agents(self) -> None:
        async def start() -> None:
            for sim in self.world.nodes.values():
                if not sim.running:
                    self.world.start(sim)

        self.do(start())

    @rule()
    def stop_or_start_the_coordinator(self) -> None:
        work = self.world.stop_coordinator if self.coordinator_up else self.world.start_coordinator
        self.do(work())
        self.coordinator_up = not self.coordinator_up

    @rule(number=st.integers(0, 999), seed=st.integers(0, 999))
    def facts_come_again_in_another_order(self, number: int, seed: int) -> None:
        async def repeat() -> None:
            node = self.pick(number).node
            assert node is not None
            facts = [seal(fact) for fact in node.book.facts]
            random.Random(seed).shuffle(facts)
            assert node.book.take(facts[: len(facts) // 2], "a repeater") == []

        self.do(repeat())

    @rule(number=st.integers(0, 999))
    def somebody_tampers_with_a_kernel(self, number: int) -> None:
        async def tamper() -> None:
            sim = self.pick(number)
            for network, segment in sim.kernel.read().segments.items():
                for mac in list(segment.fdb)[:1]:
                    sim.kernel.set_entry(network, mac, None)
                if number % 2:
                    sim.kernel.delete_link(network, VXLAN)

        self.do(tamper())

    @rule(number=st.integers(0, 999), site=st.integers(0, 1))
    @precondition(lambda self: self.coordinator_up)
    def a_machine_moves(self, number: int, site: int) -> None:
        async def move() -> None:
            self.pick(number).roam(site)

        self.do(move())

    # What must be so

    @invariant()
    def every_kernel_equals_the_model(self) -> None:
        if self.world.nodes:
            self.do(self._rest(self.rest_limit))

    async def _rest(self, limit: float) -> None:
        """Wait until all is as the model says; fail with the first difference when it never is."""
        deadline = time.monotonic() + limit
        while difference := self._difference():
            assert time.monotonic() < deadline, difference[:2000]
            await asyncio.sleep(PAUSE * len(self.world.nodes) / 6)

    def _difference(self) -> str:
        for sim in self.world.nodes.values():
            if sim.running:
                wrong = self._peers_wrong(sim) or self._segments_wrong(sim) or self._undone(sim)
                if wrong:
                    return f"{sim.name}: {wrong}"
        return ""

    def _peers_wrong(self, sim: SimNode) -> str:
        tunnel = sim.kernel.read(networks=()).tunnel
        have = set(tunnel.peers) if tunnel else set()
        want = {other.key for other in self.world.nodes.values() if other is not sim}
        return f"peers {have ^ want} differ" if have != want else ""

    def _segments_wrong(self, sim: SimNode) -> str:
        here = [item for item in self.model.values() if item.node == sim.name]
        segments = sim.kernel.read().segments
        wanted = {item.network for item in here}
        if segments.keys() != wanted:
            return f"networks {sorted(segments)}, not {sorted(wanted)}"
        for network in sorted(wanted):
            segment = segments[network]
            away = [i for i in self.model.values() if i.network == network and i.node != sim.name]
            fdb = {item.mac: self._vtep(item.node) for item in away}
            if {mac: str(vtep) for mac, vtep in segment.fdb.items()} != fdb:
                return f"FDB of {network} is {segment.fdb}, not {fdb}"
            neighbours = {a: item.mac for item in away for a in item.addresses}
            if {str(a): mac for a, mac in segment.neighbours.items()} != neighbours:
                return f"neighbours of {network} are {segment.neighbours}, not {neighbours}"
            macs = {item.mac for item in here if item.network == network}
            if {port.mac for port in segment.ports.values()} != macs:
                return f"ports of {network} are {segment.ports}, not {macs}"
        return ""

    def _vtep(self, name: str) -> str:
        anyone = next(sim.node for sim in self.world.nodes.values() if sim.node is not None)
        member = anyone.view.named(name)
        return str(member.membership.address4) if member else "unknown"

    def _undone(self, sim: SimNode) -> str:
        """Say whether there is anything left to do, or a service is not as the model has it."""
        assert sim.node is not None
        operations = plan(sim.node.desired(), sim.kernel.read())
        if operations:
            return "; ".join(str(operation) for operation in operations)
        have = sorted(
            (node.name, i.network, i.attachment)
            for node in sim.node.view.nodes.values()
            for i in node.instances
        )
        want = sorted((i.node, i.network, i.name) for i in self.model.values() if i.service)
        return f"instances are {have}, not {want}" if have != want else ""

    def teardown(self) -> None:
        self.do(self.world.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


class LargeMeshModel(MeshModel):
    """The same with many agents: 200, or as many as MESHNET_SIM_AGENTS says."""

    rest_limit = 240.0
    count = int(os.environ.get("MESHNET_SIM_AGENTS", "200"))


COMMON = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
    "database": None,
    "phases": (Phase.generate,),
}

TestSmallMesh = MeshModel.TestCase
TestSmallMesh.settings = settings(max_examples=8, stateful_step_count=20, **COMMON)  # type: ignore[arg-type]
TestSmallMesh = pytest.mark.timeout(420)(TestSmallMesh)

TestLargeMesh = LargeMeshModel.TestCase
TestLargeMesh.settings = settings(max_examples=1, stateful_step_count=5, **COMMON)  # type: ignore[arg-type]
TestLargeMesh = pytest.mark.timeout(1200)(TestLargeMesh)

__all__ = ["TestLargeMesh", "TestSmallMesh"]
