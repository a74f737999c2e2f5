"""Shell. Packets of the right size for each peer, whatever lies between, changed while it runs.

n1 ═ 9000 ═╗              ╔═ 1500 ═ n3
           ╠═ a ═ router ═ b
n2 ═ 9000 ═╝              (narrowed)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from meshnet.plan.mtu import NETWORK_MINIMUM, TUNNEL_MINIMUM, VXLAN_COST, WIREGUARD_COST
from tests.kernel.traffic import check_sizes, full_size, ping_whole
from tests.lab import Lab, Place, wait_until
from tests.lab.capture import ETHERNET
from tests.lab.mesh import Mesh, Node
from tests.scenes.mesh_scenes import Box, attached, can_ping

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.kernel]

JUMBO = 9000
SITES = {4: ("192.0.2.0/24", "198.51.100.0/24"), 6: ("2001:db8:a::/64", "2001:db8:b::/64")}
FOUND_WITHIN = 12.0
"""Seconds: until the next round, three rounds without an answer, and a search."""
RAISED_WITHIN = 30.0
MEGABYTES = 4

SERVE = """
import socket, sys
with socket.create_server(("::", 7002), family=socket.AF_INET6, dualstack_ipv6=True) as at:
    print("listening", flush=True)
    while True:
        one, _ = at.accept()
        size = 0
        while data := one.recv(65536):
            size += len(data)
        one.sendall(size.to_bytes(8, "big"))
        one.close()
"""
SEND = """
import socket, sys
one = socket.create_connection((sys.argv[1], 7002), 10)
one.settimeout(20)
one.sendall(bytes(int(sys.argv[2])))
one.shutdown(socket.SHUT_WR)
assert int.from_bytes(one.recv(8), "big") == int(sys.argv[2])
"""


@dataclass
class Scene:
    """Containers of n1, n2 and n3, and the IP version of the underlay."""

    version: int
    lab: Lab
    boxes: tuple[Box, Box, Box]

    @property
    def jumbo(self) -> int:
        return JUMBO - WIREGUARD_COST[self.version]

    @property
    def plain(self) -> int:
        """What fits to and from n3, where WireGuard could pad (to 16) beyond what fits."""
        fits = 1500 - WIREGUARD_COST[self.version]
        return fits - fits % 16


@pytest.fixture(scope="module", params=SITES, ids=["over IPv4", "over IPv6"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    version = request.param
    with Lab("two jumbo hosts and one behind a router") as lab, ExitStack() as stack:
        for name, prefix in zip("ab", SITES[version], strict=True):
            lab.subnet(name, prefix)
        mesh = Mesh(lab, lab.host("hub", "a"))
        mesh.start()
        nodes = [mesh.join(lab.host(name, "a", mtu=JUMBO)) for name in ("n1", "n2")]
        nodes.append(mesh.join(lab.host("n3", "b")))
        mesh.wait_until_whole()
        boxes = tuple(stack.enter_context(attached(node, "c")) for node in nodes)
        serve = ("serve", sys.executable, "-c", SERVE)
        for box in boxes:
            daemon = box.container.start(*serve)
            wait_until(lambda daemon=daemon: "listening" in daemon.text(), 10, "it listens")
        assert len(boxes) == 3
        for there in boxes[1:]:
            wait_until(lambda to=there: can_ping(boxes[0].container, to.address4), 10, "reached")
        yield Scene(version, lab, boxes)


def mtu_to(here: Node, there: Node) -> int:
    """Return what `here` says that fits into its tunnel to `there`."""
    return next(peer.mtu for peer in here.peers() if peer.name == there.name)


def send(place: Place, address: str) -> None:
    """Send some megabytes over TCP."""
    place.run(sys.executable, "-c", SEND, address, str(MEGABYTES << 20), timeout=40)


def check_both(here: Box, there: Box, mtu: int) -> None:
    """Packets of `mtu` pass, larger ones are answered, and bulk gets through, in both families."""
    for address in (there.address4, there.address6):
        check_sizes(here.container, address, mtu)
        send(here.container, address)


def test_each_pair_exchanges_what_its_own_links_carry(scene: Scene) -> None:
    n1, n2, n3 = scene.boxes
    for here, there, fits in ((n1, n2, scene.jumbo), (n1, n3, scene.plain), (n2, n1, scene.jumbo)):
        wait_until(
            lambda a=here, b=there, mtu=fits: mtu_to(a.node, b.node) == mtu,
            10,
            lambda a=here, b=there: f"mtu {mtu_to(a.node, b.node)}",
        )
        check_both(here, there, fits - VXLAN_COST)


def test_a_narrow_host_in_a_wide_mesh_is_told_what_is_too_big(scene: Scene) -> None:
    n1, _, n3 = scene.boxes
    fits = 1500 - WIREGUARD_COST[scene.version]
    check_both(n3, n1, fits - VXLAN_COST)
    with n3.node.host.links[0].capture("udp") as wire:
        check_sizes(n3.container, n1.address6, fits - VXLAN_COST)
        check_sizes(n3.node.host, n1.node.address4, fits)
    assert max(len(frame) for frame in wire.frames()) <= 1500 + ETHERNET


def test_what_may_be_cut_passes_at_any_size(scene: Scene) -> None:
    n1, _, n3 = scene.boxes
    for here, there in ((n1, n3), (n3, n1)):
        for size in (1400, 5000, 8800, 20000):
            words = ("ping", "-n", "-M", "dont", "-c2", "-i0.1", "-W2", "-s", str(size))
            assert here.container.works(*words, there.address4), (here.node.name, size)


def passes(here: Box, address: str, payload: int) -> bool:
    return ping_whole(here.container, address, payload)[0]


def forget(box: Box) -> None:
    """Have a container forget what it has learned of paths, as it does after ten minutes."""
    box.container.shell("ip route flush cache; ip -6 route flush cache")


@contextmanager
def swallowing(scene: Scene, size: int) -> Iterator[None]:
    """Have the router drop what is larger, without a word."""
    router = scene.lab.router()
    # What is bridged passes this hook as well where bridge netfilter is on.
    bridges = [subnet.bridge for subnet in scene.lab.subnets.values()]
    rules = "".join(f"iifname {name} oifname {name} accept; " for name in bridges)
    # `ip6 length` leaves the header out.
    rules += f"ip length > {size} drop; ip6 length > {size - 40} drop;"
    chain = f"{{ type filter hook forward priority 0; {rules} }}"
    router.run("nft", "-f", "-", input=f"table inet hole {{ chain forward {chain}; }}\n")
    try:
        yield
    finally:
        router.run("nft", "delete", "table", "inet", "hole")


@pytest.mark.parametrize("scene", [6], indirect=True, ids=["over IPv6"])
def test_a_path_that_swallows_what_is_too_big_is_measured_and_later_used_again(
    scene: Scene,
) -> None:
    n1, n2, n3 = scene.boxes
    narrow = 1450 - WIREGUARD_COST[scene.version]
    narrow -= narrow % 16
    pairs = ((n1, n3), (n3, n1))
    wide = {here.node.name: mtu_to(here.node, there.node) for here, there in pairs}
    with swallowing(scene, 1450):
        for here, there in pairs:
            wait_until(
                lambda a=here, b=there: mtu_to(a.node, b.node) == narrow,
                FOUND_WITHIN,
                lambda a=here, b=there: f"{narrow}, not {mtu_to(a.node, b.node)}",
            )
            wait_until(lambda a=here: a.node.plan() == (), 5, "the routes are there")
            check_both(here, there, narrow - VXLAN_COST)
        assert mtu_to(n1.node, n2.node) == scene.jumbo
        assert any("bytes at most pass to n3" in line for line in n1.node.log().splitlines())
    for here, there in pairs:
        wait_until(
            lambda a=here, b=there: mtu_to(a.node, b.node) == wide[a.node.name],
            RAISED_WITHIN,
            lambda a=here, b=there: f"{wide}, not {mtu_to(a.node, b.node)}",
        )


def test_a_router_that_cuts_or_tells_loses_nothing(scene: Scene) -> None:
    n1, _, n3 = scene.boxes
    forget(n1)
    router, bridge = scene.lab.router(), scene.lab.subnets["b"].bridge
    router.ip(f"link set {bridge} mtu 1400")
    try:
        for address in (n3.address4, n3.address6):
            payload = full_size(scene.plain - VXLAN_COST, address)
            wait_until(partial(passes, n1, address, payload), 10, "full size passes in pieces")
            send(n1.container, address)
    finally:
        router.ip(f"link set {bridge} mtu 1500")


def tunnel(scene: Scene, underlay: int) -> int:
    """Return what fits into a tunnel; below what the device must have, in steps of 16."""
    fits = underlay - WIREGUARD_COST[scene.version]
    return fits if fits >= TUNNEL_MINIMUM else fits - fits % 16


def mtu_of(box: Box) -> int:
    """Return the MTU of the container's interface."""
    interface = box.given.interface
    words = box.container.output("ip", "-o", "link", "show", "dev", interface).split()
    return int(words[words.index("mtu") + 1])


@pytest.mark.parametrize(
    ("here", "there"), [(1400, 1400), (1280, 1280), (9000, 9000), (9000, 1500)]
)
def test_the_networks_mtu_follows_the_underlays_at_once(
    scene: Scene, here: int, there: int
) -> None:
    a, b, _ = scene.boxes
    fits = tunnel(scene, min(here, there))
    mtu = max(fits - VXLAN_COST, NETWORK_MINIMUM)

    for box, underlay in ((a, here), (b, there)):
        box.node.host.links[0].set_mtu(underlay)

    wait_until(lambda: mtu_of(a) == mtu_of(b) == mtu, 5, lambda: f"{mtu}: {mtu_of(a)}, {mtu_of(b)}")
    forget(a)
    with b.node.host.links[0].capture("udp") as wire:
        check_sizes(a.container, b.address4, fits - VXLAN_COST)
        check_sizes(a.container, b.address6, mtu)
        check_sizes(a.node.host, b.node.address4, fits)
    assert max(len(frame) for frame in wire.frames()) <= min(here, there) + ETHERNET
