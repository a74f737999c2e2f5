"""Two hosts, one network, real frames: what is entered gets through, and nothing else does.

The picture is in tests/lab/segment_hosts.py.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_interface, ip_network

import pytest

from meshnet.linux.guard import FORGED
from meshnet.linux.netlink import in_namespace
from meshnet.plan import operations as op
from meshnet.plan.state import Guard
from tests.lab.kernel_hosts import run
from tests.lab.segment_hosts import Container, SegmentHost, Wire, kind_of, two_hosts
from tests.lab.wireguard_hosts import needs_root

pytestmark = pytest.mark.root

ANN, BEN = IPv4Address("10.213.0.1"), IPv4Address("10.213.0.2")
STRANGER4, STRANGER6 = "10.214.0.200", "fd00:1::200"


@dataclass
class Scene:
    """Ann has c1 and c2, Ben has c3, all on network red and known to each other."""

    ann: SegmentHost
    ben: SegmentHost
    c1: Container
    c2: Container
    c3: Container
    wire: Wire

    def settle(self, *wires: Wire) -> None:
        """Wait until what was sent has come to the wire and to `wires`, on c2's way to c3."""
        self.c2.send_fence(self.c3.address4.ip)
        for wire in (self.wire, *wires):
            wire.wait_for_fence()


@pytest.fixture
def scene() -> Iterator[Scene]:
    needs_root()
    with two_hosts() as (ann, ben):
        for host in (ann, ben):
            host.build("red", 77)
        c1, c2 = Container(ann, "red", "c1", 11), Container(ann, "red", "c2", 12)
        c3 = Container(ben, "red", "c3", 13)
        ann.know("red", c3, BEN)
        for container in (c1, c2):
            ben.know("red", container, ANN)
        c2.send_fence(c3.address4.ip)  # resolves what later fences need
        wire = Wire("ann", "wire0")
        yield Scene(ann, ben, c1, c2, c3, wire)
        wire.close()


def test_containers_on_two_hosts_reach_each_other_with_packets_of_the_mtu(scene: Scene) -> None:
    for source, target in ((scene.c1, scene.c3), (scene.c3, scene.c1), (scene.c2, scene.c3)):
        for address in target.addresses:
            assert source.ping(address, size=source.full(address)), source.said


def test_a_packet_over_the_mtu_is_refused_where_it_is_sent(scene: Scene) -> None:
    for address in scene.c3.addresses:
        over = scene.c1.full(address) + 1

        assert not scene.c1.ping(address, size=over, count=1)

        assert "message too long" in scene.c1.said, scene.c1.said


def test_containers_of_one_host_reach_each_other_and_nothing_of_it_leaves(scene: Scene) -> None:
    for address in scene.c2.addresses:
        assert scene.c1.ping(address, size=scene.c1.full(address)), scene.c1.said

    assert scene.wire.inner() == {}


def test_arp_and_nd_are_answered_from_entries_and_never_cross_the_wire(scene: Scene) -> None:
    for address in scene.c3.addresses:
        assert scene.c1.ping(address)

    assert scene.c1.neighbours() == {str(address): scene.c3.mac for address in scene.c3.addresses}
    seen = scene.wire.inner()
    assert seen.keys() == {"ipv4", "ipv6"}, seen


def test_an_address_that_nobody_has_is_not_asked_for_on_the_wire(scene: Scene) -> None:
    other = Wire(scene.c3.netns, "mesh0")

    for stranger in (STRANGER4, STRANGER6):
        assert not scene.c1.ping(stranger, count=1)

    scene.settle(other)
    assert scene.wire.inner() == {}
    assert other.frames() == []


def test_broadcast_and_multicast_stay_on_the_host(scene: Scene) -> None:
    beside, beyond = Wire(scene.c2.netns, "mesh0"), Wire(scene.c3.netns, "mesh0")

    scene.c1._run("ping -b -n -q -c 2 -i 0.1 -W 1 10.214.255.255")
    scene.c1._run("ping -n -q -c 2 -i 0.1 -W 1 -I mesh0 ff02::1")

    scene.settle(beside, beyond)
    assert {kind_of(frame) for frame in beside.frames()} >= {"ipv4"}
    assert beyond.frames() == []
    assert scene.wire.inner() == {}


def test_a_frame_to_an_unknown_mac_goes_nowhere(scene: Scene) -> None:
    scene.c1.run(f"ip neigh replace {STRANGER4} lladdr 0a:00:00:00:00:99 dev mesh0 nud permanent")
    beside = Wire(scene.c2.netns, "mesh0")

    assert not scene.c1.ping(STRANGER4, count=2)

    scene.settle(beside)
    assert beside.frames() == []
    assert scene.wire.inner() == {}


def test_a_container_with_a_forged_mac_is_not_heard(scene: Scene) -> None:
    assert scene.c1.ping(scene.c2.address4.ip)
    beside = Wire(scene.c2.netns, "mesh0")
    scene.wire.frames()

    scene.c1.run(f"ip link set mesh0 address {scene.c3.mac}")
    answered = scene.c1.ping(scene.c2.address4.ip, count=2)

    scene.settle(beside)
    assert not answered
    assert beside.frames() == []
    assert scene.wire.inner() == {}
    shown = scene.ann.kernel.read(["ann-red"]).segments["ann-red"].ports[scene.c1.veth]
    assert shown != scene.c1.port
    scene.ann.kernel.apply(op.SetPort("ann-red", scene.c1.veth, scene.c1.port))
    assert scene.c1.ping(scene.c2.address4.ip)


def test_the_gateway_answers_on_each_host_and_not_across(scene: Scene) -> None:
    for container in (scene.c1, scene.c3):
        for gateway in ("10.214.0.1", "fd00:1::1"):
            assert container.ping(gateway), container.said

    assert scene.wire.inner() == {}


def test_networks_with_the_same_prefix_and_addresses_do_not_meet(scene: Scene) -> None:
    for host in (scene.ann, scene.ben):
        host.build("blue", 78)
    twin = Container(scene.ann, "blue", "b1", 11)
    only = Container(scene.ben, "blue", "b4", 14)
    scene.ann.know("blue", only, BEN)
    scene.ben.know("blue", twin, ANN)
    red = Wire(scene.c1.netns, "mesh0")

    for address in only.addresses:
        assert twin.ping(address), twin.said
        assert not scene.c1.ping(address, count=1)
    assert not twin.ping(scene.c3.address4.ip, count=1)

    assert only.mac not in str(scene.c1.neighbours())
    assert {kind_of(frame) for frame in red.frames()} <= {"arp", "nd"}


def test_a_network_that_floods_carries_broadcasts_to_the_vteps_named(scene: Scene) -> None:
    scene.ann.kernel.apply(op.SetFlood("ann-red", frozenset({BEN})))
    beyond = Wire(scene.c3.netns, "mesh0")

    scene.c1._run("ping -b -n -q -c 2 -i 0.1 -W 1 10.214.255.255")
    scene.settle(beyond)
    flooded = {kind_of(frame) for frame in beyond.frames()}
    scene.ann.kernel.apply(op.SetFlood("ann-red", frozenset()))
    scene.c1._run("ping -b -n -q -c 2 -i 0.1 -W 1 10.214.255.255")
    scene.settle(beyond)

    assert flooded == {"ipv4"}
    assert beyond.frames() == []


def test_the_guard_lets_vxlan_out_by_the_tunnel_and_by_nothing_else(scene: Scene) -> None:
    mesh = frozenset({ip_network("10.213.0.0/16"), ip_network("fd00:2::/48")})
    target = scene.c3.address4.ip

    scene.ann.kernel.apply(op.SetGuard(Guard("wire0", mesh, frozenset({14789}))))
    by_the_tunnel = scene.c1.ping(target)
    scene.wire.frames()
    scene.ann.kernel.apply(op.SetGuard(Guard("meshnet0", mesh, frozenset({14789}))))
    by_something_else = scene.c1.ping(target, count=2)
    leaked = scene.wire.inner()
    scene.ann.kernel.apply(op.RemoveGuard())

    assert by_the_tunnel and not by_something_else
    assert leaked == {}
    assert scene.c1.ping(target)


def test_the_guard_lets_vxlan_in_by_the_tunnel_and_by_nothing_else(scene: Scene) -> None:
    mesh = frozenset({ip_network("10.213.0.0/16")})
    arriving = Wire(scene.c1.netns, "mesh0")

    scene.ann.kernel.apply(op.SetGuard(Guard("meshnet0", mesh, frozenset({14789}))))
    heard = scene.c3.ping(scene.c1.address4.ip, count=2)

    assert not heard
    assert scene.wire.inner()["ipv4"] == 2
    assert arriving.frames() == []


def test_the_guard_alone_has_no_connection_tracked(scene: Scene) -> None:
    mesh = frozenset({ip_network("fd00:2::/48")})
    tracked = "ip netns exec ann cat /proc/sys/net/netfilter/nf_conntrack_count"

    scene.ann.kernel.apply(op.SetGuard(Guard("wire0", mesh, frozenset({14789}), frozenset(), 9)))

    assert scene.c1.ping(scene.c3.address4.ip)
    assert run(tracked).strip() == "0"


def test_vxlan_in_the_tunnel_is_no_connection_where_a_host_with_nat_tracks_them(
    scene: Scene,
) -> None:
    chain = "{ type nat hook postrouting priority 100 ; }"
    run("ip netns exec ann nft add table ip own")
    run(f"ip netns exec ann nft add chain ip own post {chain}")
    scene.ann.kernel.apply(op.SetGuard(FORWARDING))

    assert scene.c1.ping(scene.c3.address4.ip)
    assert run("ip netns exec ann cat /proc/sys/net/netfilter/nf_conntrack_count").strip() == "0"
    assert scene.ann.kernel.read().guard == FORWARDING


def test_vxlan_is_not_taken_for_sealed_whatever_port_it_comes_from(scene: Scene) -> None:
    mesh = frozenset({ip_network("10.213.0.0/16")})
    guard = Guard("meshnet0", mesh, frozenset({14789}), frozenset(), 51820)

    scene.ann.kernel.apply(op.SetGuard(guard))

    assert in_namespace(scene.ann.path, lambda: sends(51820, 51820))
    assert not in_namespace(scene.ann.path, lambda: sends(51820, 14789))
    assert not in_namespace(scene.ann.path, lambda: sends(51821, 51820))


def sends(source: int, port: int) -> bool:
    """Say whether a datagram from port `source` to Ben's `port` is let out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", source))
        try:
            return sock.sendto(b"?", (str(BEN), port)) == 1
        except PermissionError:
            return False


FORWARDING = Guard("wire0", frozenset({ip_network("fd00:2::/48")}), frozenset({14789}))


def forwarding_host(scene: Scene) -> Wire:
    """Attach Ann to red, give her a LAN and let her forward; return her LAN."""
    port = replace(
        scene.c2.port,
        netns="",
        inode=0,
        interface="mesh-red",
        mac="0a:00:00:00:05:05",
        addresses=frozenset({ip_interface("10.214.0.50/16")}),
        sources=frozenset({IPv4Address("10.214.0.50")}),
    )
    scene.ann.kernel.apply(op.SetPort("ann-red", "p0a0000000505", port))
    scene.ann.kernel.apply(op.SetGuard(FORWARDING))
    run("ip netns exec ann sysctl -qw net.ipv4.ip_forward=1")
    run("ip -n ann link add lan0 type bridge")
    run("ip -n ann addr add 192.0.2.1/24 dev lan0")
    run("ip -n ann link set lan0 up")
    assert scene.c1.ping("10.214.0.50"), "the host itself is reached"
    return Wire("ann", "lan0")


def test_a_container_cannot_use_a_host_that_forwards_as_its_router(scene: Scene) -> None:
    lan = forwarding_host(scene)

    scene.c1.run("ip route add 192.0.2.0/24 via 10.214.0.50")
    answered = scene.c1.ping("192.0.2.77", count=2)

    assert not answered
    assert {kind_of(frame) for frame in lan.frames()}.isdisjoint({"arp", "ipv4"})


def test_what_a_host_redirects_by_rules_of_its_own_is_forwarded(scene: Scene) -> None:
    lan = forwarding_host(scene)
    run("ip netns exec ann nft add table ip own")
    chain = "{ type nat hook prerouting priority -100 ; }"
    run(f"ip netns exec ann nft add chain ip own pre {chain}")
    run("ip netns exec ann nft add rule ip own pre ip daddr 10.214.0.50 dnat to 192.0.2.77")
    found = scene.ann.kernel.read().guard
    scene.ann.kernel.apply(op.SetGuard(FORWARDING))

    scene.c1.ping("10.214.0.50", count=2)

    assert found == FORGED, "a table made for a host without NAT is made anew"
    assert scene.ann.kernel.read().guard == FORWARDING
    assert "arp" in {kind_of(frame) for frame in lan.frames()}
