"""Shell. The reference library that runtimes use, with our plugin: the only one to call CHECK."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Container, wait_until
from tests.lab.engines import CNI_DIRECTORY, missing
from tests.lab.mesh import Mesh, Node, meshnet
from tests.lab.place import CommandFailed
from tests.scenes.mesh_scenes import can_ping, mesh_of

LIBRARY = "/usr/share/gocode/src/github.com/containernetworking/cni/libcni/api.go"
ABSENT = missing("go", f"{CNI_DIRECTORY}/bridge")
ABSENT = ABSENT or ("" if Path(LIBRARY).exists() else f"not installed: {LIBRARY}")
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(ABSENT), reason=ABSENT),
]

PLUGINS = "/run/cni/bin"
OURS = {"type": "meshnet-cni", "service": "web", "ports": ["80"]}
BRIDGE = {
    "type": "bridge",
    "bridge": "br-other",
    "isDefaultGateway": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/24"}]]},
}
CHAINS: dict[str, dict[str, Any]] = {
    "alone": {"plugins": [OURS]},
    "before": {"plugins": [OURS, {"type": "tuning"}]},
    "behind": {"plugins": [BRIDGE, OURS], "disableCheck": True},
}
"""The reference `bridge` takes every address of a result for its own when it checks, so the
library is told to leave CHECK out behind it."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client, built without anything fetched."""
    place = tmp_path_factory.mktemp("go")
    env = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(place / "cache")}
    source = Path(__file__).with_name("libcni_client.go")
    command = ["go", "build", "-o", str(place / "client"), str(source)]
    subprocess.run(command, env={**os.environ, **env}, check=True, timeout=250)
    return place / "client"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with mesh_of(1, "a node and the reference CNI library") as mesh:
        yield first(mesh)


def first(mesh: Mesh) -> Node:
    node = mesh.nodes["n1"]
    node.host.run("mkdir", "-p", PLUGINS)
    for chain, rest in CHAINS.items():
        text = json.dumps({"cniVersion": "1.0.0", "name": chain, **rest})
        node.host.file(f"/run/cni/{chain}.conflist").write_text(text)
    meshnet(node.host, "cni", "setup", "--bin-dir", PLUGINS)
    return node


@dataclass
class Client:
    """The library's client, for one container."""

    program: Path
    node: Node
    box: Container
    chain: str

    def __call__(self, command: str) -> dict[str, Any]:
        words = (f"/run/cni/{self.chain}.conflist", "box", self.box.netns_path, "eth0")
        env = {"CNI_PATH": f"{PLUGINS}:{CNI_DIRECTORY}", "CNI_CACHE": "/run/cni/cache"}
        said = self.node.host.run(str(self.program), command, *words, env=env).stdout
        return dict(json.loads(said)) if said else {}


@pytest.mark.parametrize("chain", CHAINS)
def test_the_library_finds_all_as_it_was_made_until_it_is_not(
    node: Node, program: Path, chain: str
) -> None:
    box = node.host.container("box")
    client = Client(program, node, box, chain)
    client("VALIDATE")
    result = client("ADD")
    address = result["ips"][-2]["address"].partition("/")[0]
    wait_until(lambda: node.dig("web.mesh") == [address], 5, "the service is named")
    assert can_ping(box, node.gateways()[0])
    client("CHECK")
    (attached,) = (item for item in node.attachments() if item.owner)
    node.meshnet("detach", attached.name)
    if "disableCheck" not in CHAINS[chain]:
        with pytest.raises(CommandFailed, match="this node has no attachment of cni/"):
            client("CHECK")
    for _ in range(2):
        client("DEL")
    assert node.dig("web.mesh") == []
    assert box.output("ip", "-o", "link").count("\n") == 1, "loopback alone"
    node.host.remove(box)
