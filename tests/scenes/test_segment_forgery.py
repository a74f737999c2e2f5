"""What a container or another node forges is dropped where it comes in, and what is its own is not.

The hosts and the wire are those of tests/lab/segment_hosts.py; the frames are made byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from meshnet.model.addresses import Address, gateway_mac
from tests.lab.frames import arp, echo, neighbour_advertisement, router_advertisement, tagged, vxlan
from tests.lab.segment_hosts import Container, Wire
from tests.scenes.test_segment_traffic import BEN, Scene, scene

__all__ = ["scene"]

pytestmark = pytest.mark.root

STRANGER = "10.214.0.77"
Forge = Callable[[Container, Container], bytes]


def own(source: Container, target: Container, version: int) -> bytes:
    here, there = (one.addresses[version == 6] for one in (source, target))
    return echo(source.mac, target.mac, here, there)


GENUINE: dict[str, Forge] = {
    "IPv4": lambda c1, to: own(c1, to, 4),
    "IPv6": lambda c1, to: own(c1, to, 6),
    "ARP": lambda c1, to: arp(c1.mac, to.mac, c1.address4.ip),
    "ARP probe": lambda c1, to: arp(c1.mac, to.mac, IPv4Address(0)),
    "ND": lambda c1, to: neighbour_advertisement(c1.mac, to.mac, c1.address6.ip, c1.address6.ip),
    "ND, link-local": lambda c1, to: neighbour_advertisement(
        c1.mac, to.mac, IPv6Address("fe80::5"), IPv6Address("fe80::5")
    ),
}

FORGED: dict[str, Forge] = {
    "source MAC": lambda c1, to: echo("0a:00:00:00:00:99", to.mac, c1.address4.ip, to.address4.ip),
    "IPv4 of nobody": lambda c1, to: echo(c1.mac, to.mac, ip_address(STRANGER), to.address4.ip),
    "IPv4 of the gateway": lambda c1, to: echo(c1.mac, to.mac, gateway(4), to.address4.ip),
    "IPv4 of the target": lambda c1, to: echo(c1.mac, to.mac, to.address4.ip, to.address4.ip),
    "IPv6 of nobody": lambda c1, to: echo(c1.mac, to.mac, ip_address("fd00:1::77"), to.address6.ip),
    "IPv6, link-local": lambda c1, to: echo(c1.mac, to.mac, ip_address("fe80::77"), to.address6.ip),
    "ARP sender address": lambda c1, to: arp(c1.mac, to.mac, IPv4Address(STRANGER)),
    "ARP sender MAC": lambda c1, to: arp(c1.mac, to.mac, c1.address4.ip, said="0a:00:00:00:00:99"),
    "ND target": lambda c1, to: neighbour_advertisement(
        c1.mac, to.mac, c1.address6.ip, ip_address("fd00:1::1")
    ),
    "ND target, from link-local": lambda c1, to: neighbour_advertisement(
        c1.mac, to.mac, IPv6Address("fe80::5"), ip_address("fd00:1::1")
    ),
    "router": lambda c1, to: router_advertisement(c1.mac, to.mac),
    "other protocol": lambda c1, to: own(c1, to, 4)[:12] + b"\x88\xcc" + bytes(46),
    "VLAN tag on a forged packet": lambda c1, to: tagged(
        echo(c1.mac, to.mac, ip_address(STRANGER), to.address4.ip)
    ),
}


def gateway(version: int) -> Address:
    return ip_address("10.214.0.1" if version == 4 else "fd00:1::1")


@pytest.fixture
def heard(scene: Scene) -> Callable[[Container, Container, bytes], bool]:
    """Send a frame from one container; say whether the other's interface has seen it."""

    def is_heard(source: Container, target: Container, frame: bytes) -> bool:
        beyond = Wire(target.netns, "mesh0")
        source.send(frame)
        source.send(fence_from(source, target))
        beyond.wait_for_fence()
        seen = frame in beyond.frames()
        beyond.close()
        return seen

    return is_heard


def fence_from(source: Container, target: Container) -> bytes:
    return echo(source.mac, target.mac, source.address4.ip, target.address4.ip, b"fence" * 4)


def test_what_a_container_sends_as_itself_is_heard_on_its_host(
    scene: Scene, heard: Callable[[Container, Container, bytes], bool]
) -> None:
    results = {
        name: heard(scene.c1, scene.c2, make(scene.c1, scene.c2)) for name, make in GENUINE.items()
    }
    assert results == dict.fromkeys(GENUINE, True)


def test_what_a_container_forges_is_heard_nowhere(
    scene: Scene, heard: Callable[[Container, Container, bytes], bool]
) -> None:
    for target in (scene.c2, scene.c3):
        results = {
            name: heard(scene.c1, target, make(scene.c1, target)) for name, make in FORGED.items()
        }
        assert results == dict.fromkeys(FORGED, False), target.netns


def test_a_packet_of_ours_that_a_container_wraps_in_vxlan_goes_nowhere(scene: Scene) -> None:
    """A VNI is the host's to give: VXLAN to a VTEP is no more than UDP to nobody."""
    inner = own(scene.c1, scene.c3, 4)
    beyond = Wire(scene.c3.netns, "mesh0")
    mac = gateway_mac(scene.ann.vni("red"))

    scene.c1.send(vxlan(scene.c1.mac, mac, scene.c1.address4.ip, BEN, 78, inner))
    scene.settle(beyond)

    assert beyond.frames() == []


REMOTE: dict[str, Forge] = {
    "a container of this host": lambda c3, c2: echo(
        c3.mac, c2.mac, ip_address("10.214.0.11"), c2.address4.ip
    ),
    "a container of this host, IPv6": lambda c3, c2: echo(
        c3.mac, c2.mac, ip_address("fd00:1::11"), c2.address6.ip
    ),
    "the gateway": lambda c3, c2: echo(c3.mac, c2.mac, gateway(4), c2.address4.ip),
    "the gateway, IPv6": lambda c3, c2: echo(c3.mac, c2.mac, gateway(6), c2.address6.ip),
    "ARP": lambda c3, c2: arp(c3.mac, c2.mac, IPv4Address("10.214.0.1")),
    "ND": lambda c3, c2: neighbour_advertisement(
        c3.mac, c2.mac, c3.address6.ip, ip_address("fd00:1::1")
    ),
    "a router": lambda c3, c2: router_advertisement(c3.mac, c2.mac),
}


def test_another_node_cannot_speak_as_this_host_or_its_containers(scene: Scene) -> None:
    """Ben forges VXLAN by hand, past all that would keep his containers from it."""
    c2, c3, vni = scene.c2, scene.c3, scene.ben.vni("red")
    here = Wire(c2.netns, "mesh0")
    for make in (*REMOTE.values(), lambda c3, c2: fence_from(c3, c2)):
        scene.ben.send_vxlan(scene.ann.local, vni, make(c3, c2))
    here.wait_for_fence()

    assert here.frames() == []

    scene.ben.send_vxlan(scene.ann.local, vni, own(c3, c2, 6))
    scene.ben.send_vxlan(scene.ann.local, vni, fence_from(c3, c2))
    here.wait_for_fence()
    assert own(c3, c2, 6) in here.frames()
