"""Shell. Drift in the real kernel is repaired within five seconds and counted by its kind."""

from __future__ import annotations

import pytest

from tests.lab import wait_until
from tests.lab.mesh import Mesh, Node
from tests.scenes.mesh_scenes import Box, can_ping, differences
from tests.scenes.test_mesh_repair import IN, TAMPERINGS, WITHIN, ours, words_of

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.kernel]

HERE = {
    "firewall mark set": "wg set meshnet0 fwmark 77",
    "listen port changed": "wg set meshnet0 listen-port 51999",
    "allowed IPs replaced": "wg set meshnet0 peer $peer allowed-ips 10.77.0.0/16",
    "tunnel MTU changed": "ip link set meshnet0 mtu 1300",
    "VXLAN MTU changed": f"{IN} ip link set vx0 mtu 1290",
    "port MTU changed": f"{IN} ip link set $port mtu 1290",
    "nft rule added": "nft insert rule inet meshnet output accept",
    "namespace renamed": "umount -l /run/netns/meshnet-default && rm /run/netns/meshnet-default",
}
KINDS = {
    "peer removed": "ChangePeers",
    "allowed IP stolen": "ChangePeers",
    "allowed IPs replaced": "ChangePeers",
    "firewall mark set": "ConfigureTunnel",
    "listen port changed": "ConfigureTunnel",
    "tunnel MTU changed": "SetTunnelLink",
    "tunnel removed": "CreateTunnel",
    "address removed": "AddAddress",
    "strange address": "RemoveAddress",
    "route removed": "AddRoute",
    "route forged": "RemoveRoute",
    "FDB entry forged": "SetFdb",
    "strange FDB entry": "RemoveFdb",
    "neighbour forged": "SetNeighbours",
    "VXLAN MTU changed": "BuildSegment",
    "VXLAN device removed": "BuildSegment",
    "namespace renamed": "BuildSegment",
    "port MTU changed": "SetPort",
    "nft rule added": "SetGuard",
}


@pytest.mark.parametrize("what", KINDS)
def test_is_repaired_and_counted_by_its_kind(mesh: Mesh, boxes: tuple[Box, Box], what: str) -> None:
    (a, b), node, kind = boxes, mesh.nodes["n1"], KINDS[what]
    wait_until(lambda: node.plan() == (), 10, "nothing to do before")
    before, repairs = ours(node), counted(node, kind)
    node.host.shell(words_of(a, b) + (HERE | TAMPERINGS)[what])
    wait_until(
        lambda: is_as(node, before) and counted(node, kind) > repairs,
        WITHIN,
        lambda: f"{what}: repaired\n{differences(before, ours(node))}\n{node.status().repairs}",
    )
    wait_until(lambda: can_ping(a.container, b.address4), 10, "c1 reaches c2 again")


def counted(node: Node, kind: str) -> int:
    return node.status().repairs.get(kind, 0)


def is_as(node: Node, before: str) -> bool:
    try:
        return ours(node) == before
    except AssertionError:
        return False  # a tool found no device
