"""Shell. A node behind a NAT: it joins, is reached, and stays reachable when all are silent.

cloud-a ── n1, hub                         home router, masquerading, forgets
   internet ────────────────────────────── a silent mapping after MAPPING seconds
cloud-b ── n2                                 └─ home ── h1, h2
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from meshnet.plan.desired import KEEPALIVE_BEHIND_NAT
from tests.lab import Lab, wait_until
from tests.lab.mesh import Mesh, Node
from tests.scenes.mesh_scenes import SITES, attached, can_ping

pytestmark = [pytest.mark.root, pytest.mark.slow]

MAPPING = KEEPALIVE_BEHIND_NAT + 1
PASSIVE = 10
"""Seconds after which WireGuard acknowledges what it was sent, by itself (paper, section 6.5)."""
FORGETFUL = "".join(
    f"echo {MAPPING} >/proc/sys/net/netfilter/{name}\n"
    for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream")
)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with Lab("two nodes behind a home router") as lab:
        for site, prefixes in SITES.items():
            lab.subnet(site, *prefixes)
        lab.subnet("home", "192.168.1.0/24", router="home")
        lab.uplink("home", "cloud-b")
        lab.routers["home"].masquerade("eth0")
        lab.routers["home"].shell(FORGETFUL)
        mesh = Mesh(lab, lab.host("hub", "cloud-a"))
        mesh.start()
        for name, site in (("n1", "cloud-a"), ("h1", "home"), ("n2", "cloud-b"), ("h2", "home")):
            mesh.join(lab.host(name, site))
        mesh.wait_until_whole()
        yield mesh


def keepalives(node: Node) -> set[str]:
    """Return the persistent keepalive of a node's peers, as the device has it."""
    words = node.host.output("wg", "show", "meshnet0", "persistent-keepalive").split()
    return set(words[1::2])


def test_who_is_behind_the_nat_sends_keepalives_and_nobody_else(mesh: Mesh) -> None:
    for name in ("h1", "h2"):
        home = mesh.nodes[name]
        wait_until(lambda: keepalives(home) == {str(KEEPALIVE_BEHIND_NAT)}, 15, "keepalives")  # noqa: B023
        assert home.status().behind_nat
    for name in ("n1", "n2"):
        assert keepalives(mesh.nodes[name]) == {"off"}
        assert not mesh.nodes[name].status().behind_nat


def test_the_node_behind_the_nat_is_reached_while_all_are_silent(mesh: Mesh) -> None:
    outside, home = mesh.nodes["n1"], mesh.nodes["h1"]
    with attached(outside, "c1") as client, attached(home, "c2") as server:
        wait_until(lambda: can_ping(client.container, server.address4), 10, "c1 reaches c2")
        wait_until(lambda: keepalives(home) != {"off"}, 15, "h1 knows that it is behind a NAT")
        for node in mesh:
            node.kill()
        time.sleep(PASSIVE + MAPPING + 1)
        assert can_ping(client.container, server.address4)
        for node in mesh:
            node.start()
        mesh.wait_until_whole()
