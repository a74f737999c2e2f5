"""Shell. What meshnet does to itself is not felt by containers that have nothing to do with it."""

from __future__ import annotations

import os
import sys

import pytest

from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.plan.mtu import NETWORK_MINIMUM
from meshnet.wire.local import Attached, AttachRequest, DetachRequest, Done
from tests.kernel.traffic import unbroken
from tests.lab import wait_until
from tests.lab.mesh import Mesh, Node
from tests.scenes.mesh_scenes import Box, dump

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.kernel]

CHANGES = int(os.environ.get("MESHNET_VIEW_CHANGES", "300"))
"""How often the view changes under load."""

NEW = "import sys, meshnet; meshnet.__version__ = '9.9.9'; from meshnet.cli.main import run; run()"
OTHER_VERSION = (sys.executable, "-c", NEW)


def test_an_agent_that_is_killed_and_started_again_loses_no_packet(
    mesh: Mesh, boxes: tuple[Box, Box]
) -> None:
    a, b = boxes
    before = dump(a.node.host)
    with unbroken(a, b):
        a.node.kill()
        a.node.start()
        wait_until(lambda: a.node.whole, 20, "the agent is back")
        assert a.node.plan() == ()
    assert dump(a.node.host) == before


def test_an_agent_that_is_stopped_and_started_again_loses_no_packet(
    mesh: Mesh, boxes: tuple[Box, Box]
) -> None:
    a, b = boxes
    with unbroken(a, b):
        b.node.stop()
        b.node.start()
        wait_until(lambda: b.node.whole, 20, "the agent is back")


def test_an_agent_that_is_replaced_by_another_version_loses_no_packet(
    mesh: Mesh, boxes: tuple[Box, Box]
) -> None:
    a, b = boxes
    before = dump(b.node.host)
    with unbroken(a, b):
        b.node.stop()
        b.node.start(*OTHER_VERSION)
        wait_until(lambda: b.node.whole, 20, "the new agent is there")
        assert b.node.status().version == "9.9.9"
        assert b.node.plan() == ()
        b.node.stop()
        b.node.start()
        wait_until(lambda: b.node.whole, 20, "the old agent is back")
    assert dump(b.node.host) == before


def test_a_coordinator_that_is_killed_and_started_again_loses_no_packet(
    mesh: Mesh, boxes: tuple[Box, Box]
) -> None:
    with unbroken(*boxes):
        mesh.coordinator.kill()
        mesh.coordinator.start()
        mesh.wait_until_whole()


def test_a_node_that_joins_and_is_revoked_costs_the_others_no_packet(
    mesh: Mesh, boxes: tuple[Box, Box]
) -> None:
    with unbroken(*boxes):
        late = mesh.join(mesh.coordinator.host)
        mesh.wait_until_whole()
        mesh.revoke(late)
        mesh.wait_until_whole()
    late.meshnet("down", "--purge", "--yes")


def test_a_node_that_takes_another_wireguard_key_loses_no_packet(
    mesh: Mesh, boxes: tuple[Box, Box]
) -> None:
    a, b = boxes
    before = a.node.status().public_key
    with unbroken(a, b):
        told = a.node.meshnet("key", "rotate")
    assert before in told
    assert a.node.status().public_key != before
    assert "Warning" not in told
    assert [node.plan() for node in mesh] == [()] * len(mesh.nodes)


def test_a_network_that_changes_its_mtu_loses_no_packet(mesh: Mesh, boxes: tuple[Box, Box]) -> None:
    before = mtus(mesh)
    links = [mesh.nodes[name].host.links[0] for name in ("n2", "n3", "n4")]
    with unbroken(*boxes):
        for link in links:
            link.set_mtu(1400)
        wait_until(lambda: mtus(mesh) == {NETWORK_MINIMUM}, 10, lambda: f"it: {mtus(mesh)}")
        for link in links:
            link.set_mtu(1500)
        wait_until(lambda: mtus(mesh) == before, 10, lambda: f"{before}: {mtus(mesh)}")


def mtus(mesh: Mesh) -> set[int]:
    """Return the MTUs that the hosts' own interfaces on network `default` have."""
    show = ("ip", "-o", "link", "show", "dev", "mesh-default")
    lines = (node.host.output(*show).split() for node in mesh)
    return {int(words[words.index("mtu") + 1]) for words in lines}


def test_hundreds_of_changes_of_the_view_lose_no_packet(mesh: Mesh, boxes: tuple[Box, Box]) -> None:
    a, b = boxes
    other = mesh.nodes["n3"]
    container = other.host.container("busy")
    before = other.status().digest
    with unbroken(a, b):
        for number in range(CHANGES // 2):
            come_and_go(other, container.inner_pid, f"busy-{number}")
        wait_until(
            lambda: len({node.status().digest for node in mesh}) == 1, 10, "all know the same"
        )
    assert other.status().digest != before
    assert [node.plan() for node in mesh] == [()] * len(mesh.nodes)
    other.host.remove(container)


def come_and_go(node: Node, pid: int, name: str) -> None:
    """Attach a namespace and detach it again: two changes of every node's view."""
    agent = Agent(Settings(run_dir=node.host.file("/run/meshnet")))
    agent.post("/v1/attach", AttachRequest(pid=pid, name=name), Attached)
    agent.post("/v1/detach", DetachRequest(name=name), Done)
