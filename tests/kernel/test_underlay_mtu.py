"""Shell. Underlays from 1280 to 9000 bytes, in one family only, changed while the mesh runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshnet.plan.mtu import NETWORK_MINIMUM, VXLAN_COST, WIREGUARD_COST
from tests.kernel.traffic import check_sizes
from tests.lab import Lab, wait_until
from tests.lab.capture import ETHERNET
from tests.lab.mesh import Mesh
from tests.scenes.mesh_scenes import Box, attached

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.kernel]

UNDERLAYS = {4: "192.0.2.0/24", 6: "2001:db8:a::/64"}


@pytest.fixture(scope="module", params=UNDERLAYS, ids=["IPv4 only", "IPv6 only"])
def boxes(request: pytest.FixtureRequest) -> Iterator[tuple[Box, Box]]:
    """Containers of two nodes on an underlay of one family."""
    with Lab("an underlay of one family") as lab:
        lab.subnet("site", UNDERLAYS[request.param])
        mesh = Mesh(lab, lab.host("hub", "site"))
        mesh.start()
        one, two = (mesh.join(lab.host(name, "site")) for name in ("n1", "n2"))
        mesh.wait_until_whole()
        with attached(one, "c1") as a, attached(two, "c2") as b:
            yield a, b


def expected(underlay: int, box: Box) -> int:
    version = box.node.host.links[0].addresses[0].version
    return max(underlay - WIREGUARD_COST[version] - VXLAN_COST, NETWORK_MINIMUM)


def mtu_of(box: Box) -> int:
    """Return the MTU of the container's interface."""
    interface = box.given.interface
    words = box.container.output("ip", "-o", "link", "show", "dev", interface).split()
    return int(words[words.index("mtu") + 1])


@pytest.mark.parametrize(
    ("here", "there"), [(1400, 1400), (1280, 1280), (9000, 9000), (9000, 1500)]
)
def test_the_networks_mtu_follows_the_underlays_at_once(
    boxes: tuple[Box, Box], here: int, there: int
) -> None:
    a, b = boxes
    mtu = expected(min(here, there), a)

    for box, underlay in ((a, here), (b, there)):
        box.node.host.links[0].set_mtu(underlay)

    wait_until(lambda: mtu_of(a) == mtu_of(b) == mtu, 5, lambda: f"{mtu}: {mtu_of(a)}, {mtu_of(b)}")
    with b.node.host.links[0].capture("udp") as wire:
        for address in (b.address4, b.address6):
            check_sizes(a.container, address, mtu)
        check_sizes(a.node.host, b.node.address4, mtu + VXLAN_COST)
    assert max(len(frame) for frame in wire.frames()) <= min(here, there) + ETHERNET
