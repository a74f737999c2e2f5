"""Shell. One mesh for all scenes in here: making it takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import wait_until
from tests.lab.mesh import Mesh
from tests.scenes.mesh_scenes import Box, attached, can_ping, mesh_of


@pytest.fixture(scope="package")
def mesh() -> Iterator[Mesh]:
    with mesh_of(4, "four nodes, WireGuard in the kernel") as mesh:
        yield mesh


@pytest.fixture(scope="module")
def boxes(mesh: Mesh) -> Iterator[tuple[Box, Box]]:
    """A container on n1 and one on n2, that reach each other."""
    with attached(mesh.nodes["n1"], "c1") as a, attached(mesh.nodes["n2"], "c2") as b:
        wait_until(lambda: can_ping(a.container, b.address4), 10, "c1 reaches c2")
        wait_until(lambda: can_ping(a.container, b.address6), 10, "c1 reaches c2 by IPv6")
        yield a, b
