"""Shell. Four nodes with the kernel's WireGuard: all talk to all, in packets of every size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from tests.kernel.traffic import check_sizes
from tests.lab import wait_until
from tests.lab.mesh import Mesh
from tests.scenes.mesh_scenes import Box, attached, can_ping
from tests.scenes.test_mesh import (
    test_a_container_that_ends_takes_its_instance_along,
    test_a_node_that_lost_power_is_reached_as_soon_as_it_is_back,
)

__all__ = [
    "test_a_container_that_ends_takes_its_instance_along",
    "test_a_node_that_lost_power_is_reached_as_soon_as_it_is_back",
]

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.kernel]


@pytest.fixture(scope="module")
def everyone(mesh: Mesh) -> Iterator[list[Box]]:
    """A container on every node."""
    with ExitStack() as stack:
        yield [stack.enter_context(attached(node, "every")) for node in mesh]


def test_the_tunnels_are_the_kernels(mesh: Mesh) -> None:
    assert [node.status().backend for node in mesh] == ["kernel"] * len(mesh.nodes)
    for node in mesh:
        assert " wireguard " in node.host.output("ip", "-d", "link", "show", "dev", "meshnet0")


def test_every_container_reaches_every_other_in_both_families(everyone: list[Box]) -> None:
    for here in everyone:
        for there in everyone:
            for address in (there.address4, there.address6):
                reaches = partial(can_ping, here.container, address)
                wait_until(reaches, 10, f"{here.node} reaches {address} of {there.node}")


@pytest.mark.parametrize("pair", [(0, 1), (3, 2)])
def test_full_size_packets_pass_and_one_byte_more_is_answered(
    everyone: list[Box], pair: tuple[int, int]
) -> None:
    here, there = (everyone[number] for number in pair)
    for address in (there.address4, there.address6):
        check_sizes(here.container, address, here.given.mtu)


def test_full_size_packets_pass_between_the_hosts_themselves(mesh: Mesh) -> None:
    here, there = mesh.nodes["n2"], mesh.nodes["n3"]
    for address in (there.address4, there.address6):
        check_sizes(here.host, address, here.status().mtu)
