"""Shell. Nothing leaves a host in clear: the underlay is listened to while everything is upset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.lab import Capture, Daemon, Place, wait_until
from tests.lab.mesh import Mesh, Node
from tests.scenes.mesh_scenes import SEGMENT, Box, attached, can_ping

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.kernel]

MARKER = b"~plain~marker~16"
"""What pings carry, over and over; ping takes sixteen bytes."""


@pytest.fixture(scope="module")
def pair(mesh: Mesh) -> Iterator[tuple[Box, Box]]:
    with attached(mesh.nodes["n3"], "s1") as a, attached(mesh.nodes["n4"], "s2") as b:
        wait_until(lambda: can_ping(a.container, b.address4), 10, "s1 reaches s2")
        yield a, b


def shout(place: Place, *targets: str) -> list[Daemon]:
    """Send the marker to addresses without end."""
    ping = ("ping", "-n", "-i", "0.08", "-s", "200", "-p", MARKER.hex())
    return [place.start(f"shout-{address}", *ping, address) for address in targets]


def shout_from_container(a: Box, b: Box) -> list[Daemon]:
    return shout(a.container, b.address4, b.address6)


def shout_from_host(a: Box, b: Box) -> list[Daemon]:
    """To the other node, and to its container by the network that the host is on itself."""
    others = (b.node.address4, b.node.address6, b.address4, b.address6)
    return shout(a.node.host, *others)


def lose_the_tunnel(node: Node) -> None:
    node.host.run("ip", "link", "del", "meshnet0")


def lose_the_network(node: Node) -> None:
    node.host.run(*SEGMENT, "ip", "link", "del", "vx0")


def lose_the_bridge(node: Node) -> None:
    node.host.run(*SEGMENT, "ip", "link", "del", "br0")


def lose_the_interface(node: Node) -> None:
    """Take the host's own interface: a default route leads elsewhere, in clear."""
    node.host.run("ip", "link", "del", "mesh-default")


def lose_the_namespace(node: Node) -> None:
    node.host.shell(
        "nsenter --net=/run/netns/meshnet-default ip link del vx0; ip netns del meshnet-default"
    )


def lose_the_routes(node: Node) -> None:
    node.host.shell("ip route flush proto 109; ip -6 route flush proto 109")


def lose_the_agent(node: Node) -> None:
    """Kill it, take what it made while nobody repairs it, and start it again."""
    node.kill()
    node.host.run("ip", "link", "del", "mesh-default")
    node.host.run("ip", "link", "del", "meshnet0")
    node.start()


def lose_the_key(node: Node) -> None:
    """Give the device a key that nobody knows."""
    node.host.shell("wg genkey > /run/key; wg set meshnet0 private-key /run/key; rm /run/key")


def take_another_key(node: Node) -> None:
    node.meshnet("key", "rotate")


def restart(node: Node) -> None:
    assert node.agent is not None
    node.agent.stop()
    node.start()


UPSETS = [
    lose_the_tunnel,
    lose_the_network,
    lose_the_bridge,
    lose_the_interface,
    lose_the_namespace,
    lose_the_routes,
    lose_the_agent,
    lose_the_key,
    take_another_key,
    restart,
]


@contextmanager
def nothing_in_clear(*boxes: Box) -> Iterator[None]:
    """Listen on every underlay of those who shout: sealed packets are seen, the marker is not."""
    links = [link for box in boxes for link in box.node.host.links]
    with ExitStack() as stack:
        wires = [stack.enter_context(link.capture()) for link in links]
        yield
    for wire in wires:
        kinds = wire.kinds()
        assert kinds["wireguard"] > 0
        assert kinds["udp"] == 0, kinds
        assert not wire.contains(MARKER)


def test_what_is_shouted_can_be_found_in_clear_where_it_is(pair: tuple[Box, Box]) -> None:
    a, b = pair
    with Capture(a.container, "any", "icmp") as inside:
        (shouting,) = shout(a.container, b.address4)
        wait_until(lambda: inside.contains(MARKER), 10, "the marker is seen")
        shouting.kill()


@pytest.mark.parametrize("upset", UPSETS)
def test_nothing_is_in_clear_on_any_underlay_while(
    pair: tuple[Box, Box], upset: Callable[[Node], None]
) -> None:
    a, b = pair
    shouts = shout_from_container(a, b) + shout_from_host(a, b) + shout_from_host(b, a)
    with nothing_in_clear(a, b):
        upset(a.node)
        wait_until(lambda: can_ping(a.container, b.address4), 20, "s1 reaches s2 again")
        wait_until(lambda: a.node.whole and not a.node.plan(), 20, "the node is whole again")
    for one in shouts:
        one.kill()


def test_nothing_of_a_container_is_in_clear_while_its_node_goes_down_and_comes_up(
    pair: tuple[Box, Box],
) -> None:
    a, b = pair
    shouts = shout_from_container(a, b) + shout_from_container(b, a) + shout_from_host(b, a)
    with nothing_in_clear(a, b):
        a.node.meshnet("down")
        a.node.start()
        wait_until(lambda: can_ping(b.container, a.address4), 30, "s2 reaches s1 again")
    for one in shouts:
        one.kill()


def test_nothing_of_a_container_is_in_clear_while_its_node_leaves_for_good_and_joins_again(
    mesh: Mesh, pair: tuple[Box, Box]
) -> None:
    _, b = pair
    host = mesh.coordinator.host
    late, container = mesh.join(host), host.container("s3")
    a = Box(late, container, late.attach(container))
    wait_until(lambda: can_ping(container, b.address4), 20, "s3 reaches s2")
    before = late.status().public_key
    shouts = shout_from_container(a, b) + shout_from_container(b, a) + shout_from_host(b, a)
    with nothing_in_clear(a, b):
        mesh.leave(late)
        late = mesh.join(host)
        again = Box(late, container, late.attach(container))
        shouts += shout_from_container(again, b) + shout_from_host(b, again)
        wait_until(lambda: can_ping(b.container, again.address4), 30, "s2 reaches s3 again")
    for one in shouts:
        one.kill()
    assert late.status().public_key != before
    host.remove(container)
    mesh.leave(late)
    mesh.wait_until_whole()
