"""Shell. Networks do not see each other, even with the same prefix on the same hosts."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.lab import wait_until
from tests.lab.mesh import Mesh, meshnet
from tests.scenes.mesh_scenes import Box, attached, can_ping, mesh_of

pytestmark = [pytest.mark.root, pytest.mark.slow]

PREFIX = "10.50.0.0/24"


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_of(2, "two nodes, two networks") as mesh:
        for network in ("red", "blue"):
            meshnet(mesh.coordinator.host, "network", "create", network, "--prefix", PREFIX)
        yield mesh


def serve(box: Box, says: str) -> None:
    box.container.start("web", sys.executable, "-m", "tests.demo.web", says, "80")


def asked(box: Box, address: str) -> str:
    return box.container.run("curl", "-s", "-m", "3", f"http://{address}/", check=False).stdout


def test_two_networks_with_the_same_prefix_do_not_see_each_other(mesh: Mesh) -> None:
    here, there = mesh.nodes["n1"], mesh.nodes["n2"]
    same = ("--ip", "10.50.0.200")
    with (
        attached(here, "red1", "--network", "red", "--ip", "10.50.0.10") as red,
        attached(here, "blue1", "--network", "blue", "--ip", "10.50.0.10") as blue,
        attached(there, "red2", "--network", "red", *same) as red_server,
        attached(there, "blue2", "--network", "blue", *same) as blue_server,
    ):
        serve(red_server, "red")
        serve(blue_server, "blue")
        wait_until(lambda: "red" in asked(red, "10.50.0.200"), 10, "red answers red")
        wait_until(lambda: "blue" in asked(blue, "10.50.0.200"), 10, "blue answers blue")
        assert "blue" not in asked(red, "10.50.0.200")
        assert not can_ping(red.container, blue_server.address6)


def test_a_network_does_not_reach_another_with_another_prefix(mesh: Mesh) -> None:
    here, there = mesh.nodes["n1"], mesh.nodes["n2"]
    with (
        attached(here, "red1", "--network", "red") as red,
        attached(there, "c1") as other,
        attached(here, "c2") as neighbour,
    ):
        assert not can_ping(red.container, other.address4)
        assert not can_ping(red.container, neighbour.address4)
        red.container.ip(f"route add 10.214.0.0/16 dev {red.given.interface}")
        assert not can_ping(red.container, neighbour.address4)
        assert not can_ping(red.container, here.address4), "the host's mesh address"


def test_a_name_is_answered_in_its_own_network(mesh: Mesh) -> None:
    here, there = mesh.nodes["n1"], mesh.nodes["n2"]
    service = ("--service", "shop", "--port", "80/tcp")
    with (
        attached(here, "red1", "--network", "red", *service) as red,
        attached(here, "c1", *service) as plain,
    ):
        wait_until(lambda: there.dig("shop.red.mesh") == [red.address4], 5, "shop.red.mesh")
        wait_until(lambda: there.dig("shop.mesh") == [plain.address4], 5, "shop.mesh")
