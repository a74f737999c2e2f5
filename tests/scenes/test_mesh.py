"""Shell. Six nodes on two sites: the mesh is full, names are quick, nothing stops the traffic."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.lab import wait_until
from tests.lab.mesh import Mesh, Node
from tests.lab.waiting import seconds_until, stays
from tests.scenes.mesh_scenes import (
    attached,
    can_ping,
    everywhere,
    lost_of,
    mesh_of,
    stream,
)

pytestmark = [pytest.mark.root, pytest.mark.slow]

IPV4_HEAD, IPV6_HEAD, ICMP_HEAD = 20, 40, 8

NOTICED = 5.0
"""Seconds in which each of six nodes notices that another has gone."""

SOON = 4.0
"""Seconds that are less than WireGuard waits before it tries a handshake again, which is five."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_of(6, "six nodes") as mesh:
        yield mesh


def test_six_nodes_form_a_full_mesh(mesh: Mesh) -> None:
    for node in mesh:
        peers = node.peers()
        assert sorted(peer.name for peer in peers) == sorted(mesh.nodes.keys() - {node.name})
        assert [peer.name for peer in peers if not peer.reachable] == []
        assert node.host.output("wg", "show", "meshnet0", "latest-handshakes").count("\t0\n") == 0
        for other in mesh:
            assert can_ping(node.host, other.address4), f"{node} to {other}"
            assert can_ping(node.host, other.address6), f"{node} to {other}"


@pytest.mark.parametrize("pair", [("n1", "n4"), ("n6", "n3")])
def test_containers_talk_across_nodes_with_full_size_packets(
    mesh: Mesh, pair: tuple[str, str]
) -> None:
    here, there = (mesh.nodes[name] for name in pair)
    with attached(here, "c1") as a, attached(there, "c2") as b:
        for address, head in ((b.address4, IPV4_HEAD), (b.address6, IPV6_HEAD)):
            full = a.given.mtu - head - ICMP_HEAD
            ping = ("ping", "-n", "-M", "do", "-c3", "-i0.2", "-W2", "-s")
            assert a.container.works(*ping, str(full), address), f"{full} bytes to {address}"
            assert not a.container.works(*ping, str(full + 1), address), "one byte over the MTU"


def test_a_host_reaches_containers_of_other_nodes(mesh: Mesh) -> None:
    with attached(mesh.nodes["n2"], "c1") as box:
        host = mesh.nodes["n5"].host
        wait_until(lambda: can_ping(host, box.address4), 5, "n5 itself reaches the container")
        assert can_ping(host, box.address6)


def test_a_service_is_answered_everywhere_within_a_second_and_gone_within_a_second(
    mesh: Mesh,
) -> None:
    nodes = list(mesh)
    with attached(mesh.nodes["n1"], "c1") as box:
        box.node.meshnet("service", "add", "shop", "--attachment", "c1", "--port", "80/tcp")
        came = seconds_until(
            lambda: everywhere(nodes, "shop.mesh", [box.address4]), 5, "all answer shop.mesh"
        )
        box.node.meshnet("service", "rm", "shop", "--attachment", "c1")
        went = seconds_until(
            lambda: everywhere(nodes, "shop.mesh", []), 5, "none answers shop.mesh"
        )
    assert came < 1
    assert went < 1


def test_a_container_that_ends_takes_its_instance_along(mesh: Mesh) -> None:
    nodes = list(mesh)
    with attached(mesh.nodes["n1"], "c1", "--service", "shop", "--port", "80/tcp") as box:
        wait_until(lambda: everywhere(nodes, "shop.mesh", [box.address4]), 5, "all answer it")
        box.node.host.remove(box.container)
        wait_until(lambda: everywhere(nodes, "shop.mesh", []), 10, "none answers it")


def test_a_coordinator_that_is_killed_loses_nothing_and_stops_no_traffic(mesh: Mesh) -> None:
    nodes = list(mesh)
    shop = ("--service", "shop", "--port", "80/tcp")
    with (
        attached(mesh.nodes["n1"], "c1", *shop) as a,
        attached(mesh.nodes["n2"], "c2") as b,
    ):
        wait_until(lambda: can_ping(b.container, a.address4), 5, "c2 reaches c1")
        ping = stream(b, a.address4, 15)
        mesh.coordinator.kill()
        with attached(mesh.nodes["n3"], "c3", *shop) as c:
            both = [a.address4, c.address4]
            wait_until(lambda: everywhere(nodes, "shop.mesh", both), 20, "peers tell peers")
            mesh.coordinator.start()
            mesh.wait_until_whole()
            assert everywhere(nodes, "shop.mesh", both)
        assert lost_of(ping) == 0
    wait_until(lambda: len(digests(mesh)) == 1, 15, lambda: f"one digest: {digests(mesh)}")


def digests(mesh: Mesh) -> set[str]:
    """Return the digests of what the nodes know: one when all know the same."""
    return {node.status().digest for node in mesh}


def test_a_node_joins_and_is_revoked_while_the_others_go_on(mesh: Mesh) -> None:
    late = mesh.join(mesh.coordinator.host)
    assert seconds_until(lambda: reach_each_other(mesh), 20, "all reach the newcomer") < SOON
    mesh.revoke(late)
    mesh.wait_until_whole()
    late.meshnet("down", "--purge", "--yes")


def reach_each_other(mesh: Mesh) -> bool:
    """Say whether every node reaches all others."""
    return all(node.status().counts.reachable == len(mesh.nodes) - 1 for node in mesh)


@pytest.mark.parametrize("off", ["for a moment", "until all have noticed"])
def test_a_node_that_lost_power_is_reached_as_soon_as_it_is_back(mesh: Mesh, off: str) -> None:
    back, others = mesh.nodes["n3"], [node for node in mesh if node.name != "n3"]
    back.host.power_off()
    if off == "until all have noticed":
        wait_until(lambda: not any(reaches(node, "n3") for node in others), 20, "n3 is missed")
    back.host.power_on()
    back.start()
    assert seconds_until(lambda: reach_each_other(mesh), 20, "all reach n3 again") < SOON


def reaches(node: Node, name: str) -> bool:
    return any(peer.name == name and peer.reachable for peer in node.peers())


def test_a_node_that_takes_another_wireguard_key_loses_no_packet(mesh: Mesh) -> None:
    with attached(mesh.nodes["n1"], "c1") as a, attached(mesh.nodes["n2"], "c2") as b:
        wait_until(lambda: can_ping(b.container, a.address4), 5, "c2 reaches c1")
        before, ping = a.node.status().public_key, stream(b, a.address4, 3)
        assert "Warning" not in a.node.meshnet("key", "rotate")
        assert lost_of(ping) == 0
        assert a.node.status().public_key != before
    for node in mesh:
        held = {peer.name: peer.public_key for peer in node.peers()}
        others = [other for other in mesh if other is not node]
        assert held == {other.name: other.status().public_key for other in others}


def test_an_agent_that_is_killed_and_started_again_loses_no_packet(mesh: Mesh) -> None:
    with attached(mesh.nodes["n1"], "c1") as a, attached(mesh.nodes["n2"], "c2") as b:
        wait_until(lambda: can_ping(b.container, a.address4), 5, "c2 reaches c1")
        ping = stream(b, a.address4, 10)
        a.node.kill()
        a.node.start()
        wait_until(lambda: a.node.whole, 20, "the agent is back")
        assert lost_of(ping) == 0
        assert a.node.plan() == ()


def test_a_node_whose_agent_stands_still_is_reached_all_the_same(mesh: Mesh) -> None:
    still, others = mesh.nodes["n4"], [node for node in mesh if node.name != "n4"]
    assert still.agent is not None
    still.agent.send(signal.SIGSTOP)
    try:
        stays(lambda: all(reaches(node, "n4") for node in others), NOTICED, "all reach n4")
    finally:
        still.agent.send(signal.SIGCONT)


def test_a_node_that_dies_leaves_the_answers_within_ten_seconds(mesh: Mesh) -> None:
    lost, others = mesh.nodes["n6"], [node for node in mesh if node.name != "n6"]
    with (
        attached(mesh.nodes["n2"], "c1", "--service", "shop", "--port", "80/tcp") as stays,
        attached(lost, "c2", "--service", "shop", "--port", "80/tcp") as goes,
    ):
        both = [stays.address4, goes.address4]
        wait_until(lambda: everywhere(others, "shop.mesh", both), 5, "all answer both")
        lost.host.power_off()
        only = [stays.address4]
        seconds = seconds_until(
            lambda: everywhere(others, "shop.mesh", only), 15, "all answer the one that is left"
        )
        assert seconds < 10
    lost.host.power_on()
    lost.start()
    mesh.wait_until_whole()


def test_a_node_boots_into_the_mesh_with_the_coordinator_down(mesh: Mesh) -> None:
    node, other = mesh.nodes["n5"], mesh.nodes["n2"]
    with attached(other, "c1", "--service", "shop", "--port", "80/tcp") as box:
        wait_until(lambda: node.dig("shop.mesh") == [box.address4], 5, "n5 answers shop.mesh")
        mesh.coordinator.kill()
        node.host.reboot()
        node.start()
        wait_until(
            lambda: node.status().counts.reachable == len(mesh.nodes) - 1, 20, "n5 reaches all"
        )
        assert node.dig("shop.mesh") == [box.address4]
        with attached(node, "c2") as late:
            wait_until(lambda: can_ping(late.container, box.address4), 20, "a new container talks")
        mesh.coordinator.start()
    mesh.wait_until_whole()
