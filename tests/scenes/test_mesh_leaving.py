"""Shell. meshnet touches nothing of others, and leaves nothing of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshnet.errors import Conflict, Unavailable
from tests.lab import Host, wait_until
from tests.lab.mesh import PROGRAM, Mesh, meshnet
from tests.scenes.mesh_scenes import attached, dump, mesh_of

pytestmark = [pytest.mark.root, pytest.mark.slow]

FOREIGN = """
ip link add br-other type bridge
ip link add vx-other type vxlan id 7 dstport 4789 dev eth0
ip link add meshnet9 type bridge
ip link add veth-other type veth peer name peer-other
ip addr add 10.9.0.1/24 dev br-other
ip link set br-other up
ip route add 10.9.9.0/24 via 10.9.0.9 proto static
ip route add 10.9.8.0/24 via 10.9.0.9 proto 110
ip rule add from 10.9.0.0/24 table 100
ip route add default via 10.9.0.9 table 100
ip netns add other
nft add table inet other
nft add chain inet other in '{ type filter hook input priority 0; policy accept; }'
nft add rule inet other in ip saddr 10.9.0.7 drop
"""


def settled(host: Host) -> dict[str, list[str]]:
    """Return the dump once it has stopped to change: IPv6 addresses settle by themselves."""

    def twice() -> dict[str, list[str]]:
        if "tentative" in host.output("ip", "-6", "-o", "addr"):
            return {}
        first = dump(host)
        return first if first == dump(host) else {}

    return wait_until(twice, 10, "the kernel's state has settled", pause=0.2)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_of(1, "a node that leaves") as mesh:
        yield mesh


@pytest.mark.parametrize("agent", ["with its agent", "with its agent killed"])
def test_down_purge_leaves_nothing_and_foreign_things_stay(mesh: Mesh, agent: str) -> None:
    host = _guest(mesh, "with" if agent == "with its agent" else "without")
    host.shell(FOREIGN)
    before = settled(host)
    node = mesh.join(host)
    node.meshnet("cni", "setup", "--bin-dir", "/run/cni", "--conf-dir", "/run/cni")
    node.meshnet("podman", "setup", "--plugin-dir", "/run/cni")
    assert len(host.shell("ls /run/cni").split()) == 3
    mesh.wait_until_whole()
    with attached(node, "c1", "--service", "shop", "--port", "80/tcp"):
        wait_until(lambda: "mesh-default" in str(dump(host)), 10, "the host is attached")
        during = dump(host)
        missing = [line for name in before for line in before[name] if line not in during[name]]
        assert missing == []
        assert during != before
        if agent != "with its agent":
            node.kill()
        mesh.leave(node)
        after = settled(host)
        assert [name for name in before if before[name] != after[name]] == [], after
        assert "c1" in host.containers
        assert "eth0" not in host.containers["c1"].output("ip", "-o", "link")
        host.remove(host.containers["c1"])
    assert host.shell("find /run/meshnet /run/wireguard /run/cni -mindepth 1; ls /var/lib") == ""
    assert [pid for pid in host.processes() if pid != host.pid] == []


def _guest(mesh: Mesh, name: str) -> Host:
    """Return a new machine beside the mesh."""
    return mesh.lab.host(name, "cloud-b")


def test_a_machine_that_left_joins_again_by_the_same_name(mesh: Mesh) -> None:
    host, witness = _guest(mesh, "again"), mesh.nodes["n1"]
    first = mesh.join(host)
    mesh.wait_until_whole()
    identity, address = first.status().node, first.address4
    with attached(first, "c1", "--service", "shop", "--port", "80/tcp") as box:
        wait_until(lambda: witness.dig("shop.mesh") == [box.address4], 10, "n1 knows the shop")
        mesh.leave(first)
        wait_until(lambda: witness.status().counts.nodes == 1, 5, "n1 knows that it is alone")
        assert witness.peers() == []
        assert witness.dig("shop.mesh") == []
        host.remove(box.container)
    assert not host.works(PROGRAM, "status")
    again = mesh.join(host)
    mesh.wait_until_whole()
    assert again.status().node != identity
    assert again.address4 != address
    mesh.leave(again)


def test_a_purge_that_no_coordinator_hears_purges_and_says_what_is_left_to_do(mesh: Mesh) -> None:
    host = _guest(mesh, "unheard")
    before = settled(host)
    mesh.join(host)
    mesh.nodes.pop(host.name)
    mesh.coordinator.kill()
    result = host.run(PROGRAM, "down", "--purge", "--yes", check=False)
    assert result.returncode == Unavailable.exit_code
    assert "unheard could not tell that it leaves" in result.stderr
    assert "meshnet node revoke unheard" in result.stderr
    assert settled(host) == before
    mesh.coordinator.start()
    joining = ("join", "-", "--name", host.name)
    refused = host.run(PROGRAM, *joining, input=mesh.coordinator.token(), check=False)
    assert refused.returncode == Conflict.exit_code
    meshnet(mesh.coordinator.host, "node", "revoke", host.name, "--yes")
    mesh.leave(mesh.join(host))


def test_down_without_purge_keeps_the_membership(mesh: Mesh) -> None:
    node = mesh.nodes["n1"]
    identity = node.status().node
    node.meshnet("down")
    assert "meshnet0" not in node.host.output("ip", "link")
    node.start()
    mesh.wait_until_whole()
    assert node.status().node == identity
