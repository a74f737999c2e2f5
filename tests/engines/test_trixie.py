"""Shell. Engines of Debian trixie: podman 5 by our netavark plugin, Docker 26 by our driver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import trixie, wait_until
from tests.lab.engines import IMAGE, Podman
from tests.lab.mesh import PROGRAM, Mesh, Node
from tests.lab.trixie import Trixie
from tests.scenes.mesh_scenes import everywhere, mesh_of

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(500)]

PLUGINS = "/run/netavark"
CONF = f'[network]\nnetavark_plugin_dirs = ["{PLUGINS}"]\n'
SERVE = "mkdir -p /w; echo this is $0 >/w/index.html; exec /bin/httpd -f -p 80 -h /w"
STAY = ("/bin/sleep", "1000")
WEB = ("--label=mesh.service=web", "--label=mesh.port=80")


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    if trixie.missing():
        pytest.skip(trixie.missing())
    with mesh_of(2, "two nodes with engines of trixie") as mesh:
        yield mesh


@pytest.fixture(scope="module")
def roots(mesh: Mesh) -> dict[str, Trixie]:
    return {name: Trixie(node.host) for name, node in mesh.nodes.items()}


@pytest.fixture(scope="module")
def podmans(mesh: Mesh, roots: dict[str, Trixie]) -> dict[str, Podman]:
    podmans = {name: Podman(root, CONF) for name, root in roots.items()}
    for name, podman in podmans.items():
        program = str(Path(PROGRAM).with_name("meshnet-netavark"))
        roots[name].bridge(f"{PLUGINS}/meshnet", program)
        podman.start()
        podman("network", "create", "-d", "meshnet", "podnet")
    return podmans


def plugged(node: Node) -> dict[str, str]:
    """Return what netavark's plugin has attached on a node: names and IPv4 addresses."""
    items = [item for item in node.attachments() if item.owner.startswith("netavark/")]
    return {item.name: item.addresses[0] for item in items}


def nothing_is_plugged(mesh: Mesh) -> None:
    for node in mesh:
        wait_until(lambda node=node: plugged(node) == {}, 15, lambda node=node: str(plugged(node)))
        wait_until(lambda node=node: node.plan() == (), 5, lambda node=node: str(node.plan()))


def test_podmans_network_is_one_of_the_mesh(mesh: Mesh, podmans: dict[str, Podman]) -> None:
    nodes = list(mesh)
    for name, podman in podmans.items():
        podman.run(
            f"web-{name}", "podnet", "/bin/sh", "-c", SERVE, name, options=["--network-alias=web"]
        )
    both = [plugged(node)[f"web-{node.name}"] for node in nodes]
    wait_until(lambda: everywhere(nodes, "web.podnet.mesh", both), 5, "both are named")
    for podman in podmans.values():
        pages = set()
        for name in podmans:
            words = ("--network=podnet", f"localhost/{IMAGE}", "/bin/wget", "-qO-")
            page = podman("run", "--rm", *words, f"http://web-{name}/")
            assert page == f"this is {name}\n"
            pages.add(podman("run", "--rm", *words, "http://web.podnet.mesh/"))
        assert pages <= {"this is n1\n", "this is n2\n"}
    inspected = json.loads(podmans["n1"]("inspect", "web-n1"))[0]["NetworkSettings"]["Networks"]
    assert inspected["podnet"]["IPAddress"] == both[0]
    shown = json.loads(podmans["n1"]("network", "inspect", "podnet"))[0]
    assert shown["ipv6_enabled"]
    for name, podman in podmans.items():
        podman("rm", "-f", "-t", "0", f"web-{name}")
    wait_until(lambda: everywhere(nodes, "web.podnet.mesh", []), 3, "no instance is left")
    nothing_is_plugged(mesh)
