"""What agents do when their line to the coordinator, or their memory, is not as it should be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from meshnet.agent import uplink
from meshnet.coordinator.core import Terms
from meshnet.errors import Unavailable
from meshnet.model.view import View
from meshnet.wire.local import AttachRequest
from tests.sim.world import SimNode, World

LIMIT = 30.0


@pytest.fixture
def world(request: pytest.FixtureRequest) -> World:
    return World(getattr(request, "param", None))


@pytest.fixture
async def mesh(world: World) -> AsyncIterator[World]:
    """Three nodes that know each other."""
    await world.start_coordinator()
    await world.join(await world.token(3), ["n0", "n1", "n2"])
    await until(lambda: all(len(peers(sim)) == 2 for sim in world.nodes.values()), "all know all")
    yield world
    await world.close()


async def until(predicate: Callable[[], object], what: str) -> None:
    """Let the loop run until something is true."""
    deadline = time.monotonic() + LIMIT
    while not predicate():
        assert time.monotonic() < deadline, f"not within {LIMIT:g} s: {what}"
        await asyncio.sleep(0.02)


def peers(sim: SimNode) -> set[str]:
    tunnel = sim.kernel.read(networks=()).tunnel
    return {str(key) for key in tunnel.peers} if tunnel else set()


def services(sim: SimNode) -> int:
    """Return how many instances a node knows of."""
    return sum(len(node.instances) for node in view(sim).nodes.values())


def view(sim: SimNode) -> View:
    assert sim.node is not None
    return sim.node.view


def snapshots() -> float:
    return float(uplink.SNAPSHOTS._value.get())


async def test_a_node_whose_memory_of_the_coordinators_facts_is_wrong_asks_for_them_all(
    mesh: World,
) -> None:
    before, told = snapshots(), mesh.nodes["n0"]
    mirror = mesh.uplinks["n0"]._mirror
    mirror.forget(mesh.nodes["n1"].state.keys()[0].public)
    await mesh.attach(mesh.nodes["n1"], "default", "web")
    await until(lambda: services(told) == 1, "n0 knows the service")
    assert snapshots() == before + 1
    await mesh.attach(mesh.nodes["n2"], "default", "web")
    await until(lambda: services(told) == 2, "n0 knows both")
    assert snapshots() == before + 1


async def test_a_node_that_lost_its_facts_removes_nothing_before_it_has_them_all_again(
    mesh: World,
) -> None:
    sim = mesh.nodes["n0"]
    await mesh.attach(mesh.nodes["n1"], "default")
    await mesh.attach(sim, "default")
    await until(lambda: sim.kernel.read().segments["default"].fdb, "n0 has an entry for it")
    await mesh.kill(sim)
    await mesh.stop_coordinator()
    before = peers(sim), dict(sim.kernel.read().segments["default"].fdb)
    for name in ("complete", "facts.ndjson"):
        (sim.state.path / name).unlink()
    for other in ("n1", "n2"):
        await mesh.kill(mesh.nodes[other])
    mesh.start(sim)
    assert sim.node is not None
    first = await sim.node.reconciler.soon()
    assert first.operations == []
    assert (peers(sim), dict(sim.kernel.read().segments["default"].fdb)) == before
    assert not sim.node.may_remove()
    await mesh.start_coordinator()
    await until(sim.node.may_remove, "n0 has had a full view")
    assert (peers(sim), dict(sim.kernel.read().segments["default"].fdb)) == before


async def test_a_node_that_starts_on_a_kernel_without_ipv6_goes_on_by_ipv4_alone(
    mesh: World,
) -> None:
    sim = mesh.nodes["n0"]
    await mesh.kill(sim)
    sim.ipv6 = False
    mesh.start(sim)
    await until(lambda: sim.speaks and "default" in view(sim).networks, "n0 is back")
    await mesh.attach(sim, "default")
    await mesh.attach(mesh.nodes["n1"], "default")
    await until(lambda: sim.kernel.read().segments["default"].fdb, "n0 has an entry for it")
    host = sim.kernel.read()
    assert host.tunnel is not None
    (port,) = host.segments["default"].ports.values()
    segment = host.segments["default"]
    addresses = (*host.tunnel.addresses, *segment.gateways, *segment.neighbours, *port.addresses)
    assert {one.version for one in (*addresses, *host.tunnel.routes)} == {4}
    assert {len(item.addresses) for item in view(sim).nodes[sim.node.id].attachments.values()} == {
        1
    }
    assert sim.desk is not None
    with pytest.raises(Unavailable) as caught:
        await sim.desk.attach(AttachRequest(host=True, addresses=("fd00::9",)))
    assert "the kernel of this host has no IPv6 for network default" in caught.value.message


SHORT = Terms(membership=6, lease=6)


@pytest.mark.parametrize("world", [SHORT], indirect=True)
async def test_membership_and_leases_are_renewed_unattended(
    mesh: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink, "RENEW_CHECK", 0.5)
    for sim in list(mesh.nodes.values()):
        await mesh.kill(sim)
        mesh.start(sim)
    await until(lambda: all(sim.node and sim.node.me for sim in mesh.nodes.values()), "all are up")
    await mesh.attach(mesh.nodes["n0"], "default", "web")
    ends = max(node.membership.not_after for node in view(mesh.nodes["n0"]).nodes.values())
    await until(lambda: time.time() > ends + 1, "the end of what they had")
    for sim in mesh.nodes.values():
        assert len(peers(sim)) == 2
        assert services(sim) == 1
