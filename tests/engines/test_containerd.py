"""Shell. containerd's containers on the mesh: by its own tool, and as a kubelet starts pods."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import wait_until
from tests.lab.containerd import POD_IMAGE, ROOT, Containerd, decode
from tests.lab.engines import CNI_DIRECTORY, missing
from tests.lab.mesh import Mesh, Node
from tests.lab.place import CommandFailed
from tests.scenes.mesh_scenes import everywhere, mesh_of

ABSENT = missing("/usr/bin/containerd", "ctr", "runc", "busybox", f"{CNI_DIRECTORY}/loopback")
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(ABSENT), reason=ABSENT),
]

SERVE = "mkdir -p /w; echo this is $0 >/w/index.html; exec /bin/httpd -f -p 80 -h /w"
CGROUPS = f"meshnet-{os.getpid()}"


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_of(2, "two nodes with containerd") as mesh:
        yield mesh


@pytest.fixture(scope="module")
def runtimes(mesh: Mesh) -> Iterator[dict[str, Containerd]]:
    made = {name: Containerd(node.host) for name, node in mesh.nodes.items()}
    yield made
    for node in mesh:
        node.host.kill_all()
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        if (hierarchy / CGROUPS).is_dir():
            (hierarchy / CGROUPS).rmdir()


@dataclass
class Pod:
    """A pod sandbox with one container in it, as a kubelet makes them."""

    containerd: Containerd
    name: str
    id: str = ""
    container: str = ""

    def run(self, annotations: dict[str, str], dns: str) -> None:
        config = {
            1: {1: self.name, 2: f"uid-{self.name}", 3: "default"},
            2: self.name,
            4: {1: dns, 2: "mesh"},
            7: [{1: key, 2: value} for key, value in annotations.items()],
            8: {1: f"/{CGROUPS}"},
        }
        self.id = self.containerd.cri("RunPodSandbox", {1: config})[1].decode()
        container = {1: {1: "main"}, 2: {1: POD_IMAGE}, 3: ["/bin/sh", "-c", SERVE, self.name]}
        created = self.containerd.cri("CreateContainer", {1: self.id, 2: container, 3: config})
        self.container = created[1].decode()
        self.containerd.cri("StartContainer", {1: self.container})

    def address(self) -> str:
        status = self.containerd.cri("PodSandboxStatus", {1: self.id})[1]
        return str(decode(decode(status)[5])[1].decode())

    def output(self, *command: str) -> str:
        done = self.containerd.cri("ExecSync", {1: self.container, 2: list(command), 3: 10})
        return str(done.get(1, b"").decode())

    def remove(self) -> None:
        self.containerd.cri("StopPodSandbox", {1: self.id})
        self.containerd.cri("RemovePodSandbox", {1: self.id})


@contextmanager
def pod(containerd: Containerd, name: str, dns: str, **annotations: str) -> Iterator[Pod]:
    made = Pod(containerd, name)
    made.run({f"mesh.{key}": value for key, value in annotations.items()}, dns)
    try:
        yield made
    finally:
        made.remove()


def owners(node: Node) -> list[str]:
    return [item.owner for item in node.attachments() if item.owner]


def test_pods_of_two_nodes_are_one_service_by_annotation(
    mesh: Mesh, runtimes: dict[str, Containerd]
) -> None:
    here, there = mesh.nodes["n1"], mesh.nodes["n2"]
    dns = here.gateways()[0]
    with (
        pod(runtimes["n1"], "web-1", dns, service="web", port="80") as first,
        pod(runtimes["n2"], "web-2", dns, service="web", port="80") as second,
    ):
        both = sorted([first.address(), second.address()])
        wait_until(lambda: everywhere([here, there], "web.mesh", both), 5, "both are named")
        for each in (first, second):
            for other in (first, second):
                page = each.output("/bin/wget", "-qO-", f"http://{other.name}.mesh/")
                assert page == f"this is {other.name}\n"
        assert here.dig("_http._tcp.web.mesh", "SRV") != []
    for node in (here, there):
        wait_until(lambda node=node: node.dig("web.mesh") == [], 5, "no instance is left")
        assert owners(node) == []


def test_a_pod_without_an_agent_fails_clearly_and_leaves_nothing(
    mesh: Mesh, runtimes: dict[str, Containerd]
) -> None:
    node, containerd = mesh.nodes["n1"], runtimes["n1"]
    dns = node.gateways()[0]
    node.kill()
    with pytest.raises(CommandFailed, match="no agent listens on /run/meshnet"):
        Pod(containerd, "early").run({}, dns)
    node.start()
    assert owners(node) == []
    with pod(containerd, "late", dns) as made:
        assert made.output("/bin/ip", "-4", "addr", "show", "eth0").count(made.address()) == 1


def test_a_container_of_ctr_comes_and_goes(mesh: Mesh, runtimes: dict[str, Containerd]) -> None:
    node, containerd = mesh.nodes["n2"], runtimes["n2"]
    words = ("run", "--rm", "--cni", "--rootfs", ROOT, "one-off", "/bin/ip", "-4", "route")
    assert "10.214.0.0/16 dev eth0" in containerd.ctr("-n", CGROUPS, *words)
    assert owners(node) == []
