"""Shell. Containers of podman's on the mesh, by its CNI backend and our plugin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import wait_until
from tests.lab.engines import CNI_DIRECTORY, IMAGE, PLUGIN, CniPodman, missing, without_cni
from tests.lab.mesh import Mesh
from tests.scenes.mesh_scenes import mesh_of

ABSENT = missing("podman", "runc", "busybox", f"{CNI_DIRECTORY}/bridge") or without_cni()
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(bool(ABSENT), reason=ABSENT),
]

OURS: dict[str, Any] = {"type": PLUGIN, "capabilities": {"ips": True, "aliases": True}}
BRIDGE = {
    "type": "bridge",
    "bridge": "br-other",
    "isGateway": True,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.99.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    },
}
SERVE = "mkdir /w; echo this is $0 >/w/index.html; exec /bin/httpd -f -p 80 -h /w"


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_of(2, "two nodes with podman") as mesh:
        yield mesh


@pytest.fixture(scope="module")
def podmans(mesh: Mesh) -> dict[str, CniPodman]:
    """Two podmans: the second one has another plugin in front of ours."""
    plugins = {"n1": [OURS], "n2": [BRIDGE, OURS]}
    return {name: CniPodman(node.host, plugins[name]) for name, node in mesh.nodes.items()}


def test_containers_on_two_hosts_are_one_service_by_alias(
    mesh: Mesh, podmans: dict[str, CniPodman]
) -> None:
    for name, podman in podmans.items():
        podman.run(
            f"web-{name}", "meshed", "/bin/sh", "-c", SERVE, name, options=["--network-alias=web"]
        )
    for node in mesh:
        wait_until(lambda node=node: len(node.dig("web.mesh")) == 2, 5, "both instances are named")
    for podman in podmans.values():
        for name in podmans:
            page = ("/bin/wget", "-qO-", f"http://web-{name}.mesh/")
            printed = podman("run", "--rm", "--network=meshed", f"localhost/{IMAGE}", *page)
            assert printed == f"this is {name}\n"
    for name, podman in podmans.items():
        podman("rm", "-f", "-t", "0", f"web-{name}")
    for node in mesh:
        wait_until(lambda node=node: node.dig("web.mesh") == [], 5, "no instance is left")
        assert [item for item in node.attachments() if item.owner] == []


def test_behind_another_plugin_the_container_keeps_its_default_route(
    podmans: dict[str, CniPodman],
) -> None:
    podman = podmans["n2"]
    podman.run("both", "meshed", "/bin/sleep", "1000")
    routes = podman("exec", "both", "/bin/ip", "route")
    assert "default via 10.99.0.1 dev eth0" in routes
    assert "10.214.0.0/16 dev mesh0" in routes
    inspected = json.loads(podman("inspect", "both"))[0]["NetworkSettings"]["Networks"]["meshed"]
    assert inspected["IPAddress"].startswith("10.99.0.")
    podman("restart", "-t", "0", "both")
    assert "dev mesh0" in podman("exec", "both", "/bin/ip", "route")
    podman("rm", "-f", "-t", "0", "both")


def test_a_fixed_address_is_the_containers_own(mesh: Mesh, podmans: dict[str, CniPodman]) -> None:
    podman = podmans["n1"]
    podman.run("fixed", "meshed", "/bin/sleep", "1000", options=["--ip=10.214.80.8"])
    assert "10.214.80.8/16" in podman("exec", "fixed", "/bin/ip", "-4", "addr", "show", "eth0")
    wait_until(lambda: mesh.nodes["n2"].dig("fixed.mesh") == ["10.214.80.8"], 5, "named there")
    podman("rm", "-f", "-t", "0", "fixed")
