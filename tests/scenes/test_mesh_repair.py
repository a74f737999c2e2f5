"""Shell. What somebody else removes or forges in the kernel comes back, and is counted."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.lab import wait_until
from tests.lab.mesh import PROGRAM, Mesh, Node
from tests.scenes.mesh_scenes import SEGMENT, Box, attached, can_ping, differences, mesh_of

pytestmark = [pytest.mark.root, pytest.mark.slow]

WITHIN = 5.0
STRANGER = "6Wd5JwFf0yTl6BYuL1Rp1zbW2rRpZCkQk8kXv0f2C0U="


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_of(2, "two nodes, tampered with") as mesh:
        yield mesh


@pytest.fixture(scope="module")
def boxes(mesh: Mesh) -> Iterator[tuple[Box, Box]]:
    with attached(mesh.nodes["n1"], "c1") as a, attached(mesh.nodes["n2"], "c2") as b:
        wait_until(lambda: can_ping(a.container, b.address4), 10, "c1 reaches c2")
        yield a, b


def ours(node: Node) -> str:
    """Return all that is ours in a host's kernel, as its own tools print it."""
    host = node.host
    parts = [
        _in_order(host.output("wg", "show", "meshnet0", "allowed-ips")),
        host.output("wg", "show", "meshnet0", "listen-port"),
        host.output("ip", "-o", "addr", "show", "dev", "meshnet0"),
        host.output("ip", "-o", "link", "show", "dev", "meshnet0"),
        host.output("ip", "-o", "addr", "show", "dev", "mesh-default"),
        host.output("ip", "route", "show", "table", "all", "proto", "109"),
        host.output("ip", "-6", "route", "show", "table", "all", "proto", "109"),
        host.output("nft", "list", "table", "inet", "meshnet"),
        host.output(*SEGMENT, "ip", "-o", "link"),
        host.output(*SEGMENT, "ip", "-o", "-d", "link", "show", "dev", "vx0"),
        host.output(*SEGMENT, "ip", "-o", "addr", "show", "dev", "br0"),
        host.output(*SEGMENT, "bridge", "fdb", "show", "brport", "vx0"),
        host.output(*SEGMENT, "ip", "neigh", "show", "nud", "permanent"),
    ]
    return "\n".join(_sorted(_without_numbers(part)) for part in parts)


def _in_order(text: str) -> str:
    """Return lines with their words sorted: what was taken and given back is listed elsewhere."""
    return "\n".join(" ".join(sorted(line.split())) for line in text.splitlines())


def _without_numbers(text: str) -> str:
    """Drop what is new for a link that was made anew, and what counts by itself."""
    text = re.sub(r"^\d+: ", "", text, flags=re.M)
    text = re.sub(r"^(p0a\w+.*link/ether )\S+", r"\1random", text, flags=re.M)
    return re.sub(r"@if\d+|link-netnsid \d+|handle \d+|valid_lft \S+|\w+_timer +\S+", "", text)


def _sorted(text: str) -> str:
    return "\n".join(sorted(line.rstrip() for line in text.splitlines()))


IN = " ".join(SEGMENT)
TAMPERINGS = {
    "FDB entry removed": f"{IN} bridge fdb del $mac dev vx0 dst $vtep",
    "FDB entry forged": f"{IN} bridge fdb replace $mac dev vx0 dst 192.0.2.99",
    "strange FDB entry": f"{IN} bridge fdb add 02:00:00:00:00:99 dev vx0 dst $vtep",
    "neighbour removed": f"{IN} ip neigh del $address dev vx0",
    "neighbour forged": f"{IN} ip neigh replace $address lladdr 02:00:00:00:00:98 dev vx0",
    "IPv6 neighbour removed": f"{IN} ip neigh del $address6 dev vx0",
    "route removed": "ip route del $prefix dev meshnet0",
    "route forged": "ip route add 10.99.0.0/16 dev meshnet0 proto 109",
    "peer removed": "wg set meshnet0 peer $peer remove",
    "strange peer": f"wg set meshnet0 peer {STRANGER} allowed-ips 10.213.99.9/32",
    "allowed IP stolen": f"wg set meshnet0 peer {STRANGER} allowed-ips $vtep/32",
    "address removed": "ip addr del $own/32 dev meshnet0",
    "strange address": "ip addr add 10.213.99.9/32 dev meshnet0",
    "tunnel down": "ip link set meshnet0 down",
    "tunnel removed": "ip link del meshnet0",
    "port off the bridge": f"{IN} ip link set $port nomaster",
    "port down": f"{IN} ip link set $port down",
    "port removed": f"{IN} ip link del $port",
    "gateway address removed": f"{IN} ip addr flush dev br0",
    "bridge removed": f"{IN} ip link del br0",
    "VXLAN device removed": f"{IN} ip link del vx0",
    "network's namespace removed": "ip netns del meshnet-default",
    "host's own address removed": "ip addr flush dev mesh-default",
    "nft table removed": "nft delete table inet meshnet",
    "nft table emptied": "nft flush table inet meshnet",
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_is_repaired_and_counted(mesh: Mesh, boxes: tuple[Box, Box], what: str) -> None:
    (a, b), node = boxes, mesh.nodes["n1"]
    wait_until(lambda: node.plan() == (), 10, "nothing to do before")
    before, repairs = ours(node), sum(node.status().repairs.values())
    node.host.shell(words_of(a, b) + TAMPERINGS[what])
    wait_until(
        lambda: repaired(node, before, repairs),
        WITHIN,
        lambda: f"{what}: repaired\n{differences(before, ours(node))}\n{node.status().repairs}",
    )
    wait_until(lambda: can_ping(a.container, b.address4), 10, "c1 reaches c2 again")
    assert can_ping(b.container, a.address6)


def repaired(node: Node, before: str, repairs: int) -> bool:
    """Say whether the kernel has what it had, and one repair more was counted."""
    try:
        return ours(node) == before and sum(node.status().repairs.values()) > repairs
    except AssertionError:
        return False  # a tool found no device


def words_of(a: Box, b: Box) -> str:
    """Return the shell words of the tamperings: what n1 knows of c2 and its own port for c1."""
    here, there = a.node, b.node
    port = "p" + a.given.mac.replace(":", "")
    values = {
        "mac": b.given.mac,
        "vtep": there.address4,
        "address": b.address4,
        "address6": b.address6,
        "prefix": "10.213.0.0/16",
        "own": here.address4,
        "peer": there.status().public_key,
        "port": port,
    }
    return "".join(f"{name}='{value}'; " for name, value in values.items())


def test_an_agent_whose_disk_is_full_lets_go_of_what_ends_and_can_be_started_again(
    mesh: Mesh,
) -> None:
    node = mesh.nodes["n2"]
    with attached(node, "brief") as box:
        node.host.shell("mount -o remount,size=600k /var/lib")
        node.host.run("dd", "if=/dev/zero", "of=/var/lib/fill", "bs=4k", check=False)
        refused = node.host.run(PROGRAM, "key", "rotate", check=False)
        assert (refused.returncode, "No space left" in refused.stderr) == (6, True)
        node.host.remove(box.container)
        wait_until(lambda: "brief" not in str(node.attachments()), 10, "it is let go of")
        assert "attachments.json cannot be written" in str(node.status().warnings)
    node.stop()
    node.start()
    mesh.wait_until_whole()
    assert "brief" not in str(node.attachments())
    node.host.shell("rm /var/lib/fill; mount -o remount,size=100M /var/lib")


def test_an_agent_that_is_started_twice_ends_and_the_first_goes_on(mesh: Mesh) -> None:
    node = mesh.nodes["n2"]
    for options in ((), ("--run-dir", "/run/other"), ("--state-dir", "/run/other")):
        if "--state-dir" in options:
            node.host.shell("cp -r /var/lib/meshnet /run/other")
        second = node.host.run(PROGRAM, *options, "agent", check=False)
        assert second.returncode == 4, second.stderr
        assert "an agent is running on" in second.stderr
    assert node.whole
