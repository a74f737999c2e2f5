"""Shell. The CNI plugin as a runtime calls it, on real nodes with real namespaces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Container, wait_until
from tests.lab.mesh import PROGRAM, Mesh, Node
from tests.scenes.mesh_scenes import can_ping, dump, mesh_of

pytestmark = [pytest.mark.root, pytest.mark.slow]

PLUGIN = str(Path(PROGRAM).with_name("meshnet-cni"))
VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")


class CniFailed(AssertionError):
    """An error that a plugin answered with."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.code = error["code"]


@dataclass
class Pod:
    """A namespace on a node and the call's part that stays the same."""

    node: Node
    box: Container
    id: str
    version: str = "1.1.0"
    ifname: str = "eth0"

    def call(self, command: str, *, netns: str | None = None, **more: Any) -> dict[str, Any]:
        path = self.box.netns_path if netns is None else netns
        env = {"CNI_CONTAINERID": self.id, "CNI_NETNS": path, "CNI_IFNAME": self.ifname}
        env["CNI_ARGS"] = f"IgnoreUnknown=1;K8S_POD_NAME={self.id}"
        return cni(self.node, command, env, self.version, **more)

    def add(self, **more: Any) -> dict[str, Any]:
        return self.call("ADD", **more)

    def delete(self) -> None:
        assert self.call("DEL") == {}


def cni(
    node: Node, command: str, env: dict[str, str], version: str = "1.1.0", **more: Any
) -> dict[str, Any]:
    """Call the plugin; return what it prints, or raise the error that it prints."""
    config = {"cniVersion": version, "name": "pods", "type": "meshnet-cni", **more}
    said = node.host.run(
        PLUGIN, input=json.dumps(config), env={**env, "CNI_COMMAND": command}, check=False
    )
    assert said.stderr == "", "all that a plugin says is on its standard output"
    printed: dict[str, Any] = json.loads(said.stdout) if said.stdout else {}
    if said.returncode:
        raise CniFailed(printed)
    return printed


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_of(2, "two nodes and a runtime") as mesh:
        yield mesh


@contextmanager
def pod(node: Node, name: str, version: str = "1.1.0") -> Iterator[Pod]:
    box = node.host.container(name)
    made = Pod(node, box, name, version)
    try:
        yield made
    finally:
        if node.agent is not None and node.agent.running:
            made.delete()
        node.host.remove(box)


def owners(node: Node) -> list[str]:
    return sorted(item.owner for item in node.attachments() if item.owner)


def veths(node: Node) -> list[str]:
    """Return the ports in the segment's namespace, less the host's own."""
    segment = ("nsenter", "--net=/run/netns/meshnet-default", "ip", "-o", "link")
    lines = node.host.output(*segment).splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith("p")]


def address4(result: dict[str, Any]) -> str:
    texts = [str(ip["address"]).partition("/")[0] for ip in result["ips"]]
    return next(text for text in texts if ":" not in text)


@pytest.mark.parametrize("version", VERSIONS)
def test_pods_on_two_nodes_talk_and_are_found_by_name(mesh: Mesh, version: str) -> None:
    here, there = mesh.nodes["n1"], mesh.nodes["n2"]
    with pod(here, "client") as client, pod(there, "web-1", version) as server:
        client.add()
        labels = [{"key": "mesh.service", "value": "web"}, {"key": "mesh.port", "value": "80"}]
        result = server.add(args={"cni": {"labels": labels}})
        assert result["cniVersion"] == version
        assert result["interfaces"][0]["name"] == "eth0"
        assert result["interfaces"][0]["sandbox"] == server.box.netns_path
        link = json.loads(server.box.output("ip", "-j", "addr", "show", "eth0"))[0]
        assert link["address"] == result["interfaces"][0]["mac"]
        assert address4(result) in [each["local"] for each in link["addr_info"]]
        for name in ("web.mesh", "web-1.mesh"):
            wait_until(lambda name=name: here.dig(name) == [address4(result)], 5, name)
        wait_until(lambda: can_ping(client.box, address4(result)), 5, "pod to pod")
        if version != "0.3.1":
            server.call("CHECK", prevResult=result)
        server.delete()
        wait_until(lambda: here.dig("web.mesh") == [], 5, "the name is gone")
        assert not server.box.works("ip", "link", "show", "eth0")


def test_del_is_the_same_once_twice_and_when_the_namespace_is_gone(mesh: Mesh) -> None:
    node = mesh.nodes["n1"]
    before = veths(node)
    with pod(node, "c1") as made:
        made.add()
        assert made.call("DEL", netns="") == {}
        assert made.call("DEL", netns="") == {}
        made.add()
        path = made.box.netns_path
        made.box.kill_all()
        assert made.call("DEL", netns=path) == {}
        assert made.call("DEL", netns="/proc/4000000/ns/net") == {}
    assert (veths(node), owners(node)) == (before, [])


def test_an_interface_that_is_there_already_is_an_error_and_nothing_changes(mesh: Mesh) -> None:
    node = mesh.nodes["n1"]
    with pod(node, "c1") as made:
        made.box.ip("link add eth0 type bridge")
        before, attached = dump(node.host), node.attachments()
        with pytest.raises(CniFailed, match="has a link eth0 already"):
            made.add()
        assert node.attachments() == attached
        assert dump(node.host) == before
        made.box.ip("link del eth0")
        made.add()
        with pytest.raises(CniFailed, match="is attached already"):
            made.add()
        assert made.box.works("ip", "link", "show", "eth0")


def test_check_tells_what_is_wrong(mesh: Mesh) -> None:
    with pod(mesh.nodes["n1"], "c1") as made:
        result = made.add()
        made.call("CHECK", prevResult=result)
        with pytest.raises(CniFailed, match="prevResult does not hold"):
            made.call("CHECK", prevResult={**result, "ips": []})
        made.delete()
        with pytest.raises(CniFailed, match="no attachment") as failed:
            made.call("CHECK", prevResult=result)
        assert failed.value.code == 3


def test_a_fixed_address_is_given_once(mesh: Mesh) -> None:
    fixed = {"ips": ["10.214.77.7/16"]}
    with pod(mesh.nodes["n1"], "c1") as first, pod(mesh.nodes["n2"], "c2") as second:
        assert address4(first.add(runtimeConfig=fixed)) == "10.214.77.7"
        with pytest.raises(CniFailed):
            second.add(runtimeConfig=fixed)
        assert owners(mesh.nodes["n2"]) == []


def test_an_alias_is_a_name_of_all_who_have_it(mesh: Mesh) -> None:
    here, there = mesh.nodes["n1"], mesh.nodes["n2"]
    shop = {"aliases": {"pods": ["shop"]}}
    with pod(here, "c1") as first, pod(there, "c2") as second:
        both = sorted(address4(each.add(runtimeConfig=shop)) for each in (first, second))
        wait_until(lambda: here.dig("shop.mesh") == there.dig("shop.mesh") == both, 5, "shop")


def test_parallel_adds_give_each_its_own_and_gc_keeps_what_it_is_told(mesh: Mesh) -> None:
    node, count = mesh.nodes["n1"], 20
    before = veths(node)
    boxes = [node.host.container(f"p{number}") for number in range(count)]
    pods = [Pod(node, box, f"p{number}") for number, box in enumerate(boxes)]
    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(Pod.add, pods))
    assert len({address4(result) for result in results}) == count
    assert can_ping(boxes[0], address4(results[-1]))
    kept = {"containerID": "p3", "ifname": "eth0"}
    cni(node, "GC", {}, name="other", **{"cni.dev/valid-attachments": []})
    assert len(owners(node)) == count
    cni(node, "GC", {}, **{"cni.dev/valid-attachments": [kept]})
    assert owners(node) == ["cni/pods/p3/eth0"]
    assert boxes[3].works("ip", "link", "show", "eth0")
    assert not boxes[4].works("ip", "link", "show", "eth0")
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(Pod.delete, pods))
    for box in boxes:
        node.host.remove(box)
    assert (veths(node), owners(node)) == (before, [])


@pytest.mark.timeout(300)
def test_an_agent_killed_in_the_middle_leaves_nothing(mesh: Mesh) -> None:
    node, rounds = mesh.nodes["n2"], 8
    before = veths(node)
    for number in range(rounds):
        with pod(node, f"k{number}") as made, ThreadPoolExecutor(1) as pool:
            command = "ADD" if number % 2 else "DEL"
            if command == "DEL":
                made.add()
            call = pool.submit(made.call, command)
            wait([call], 0.04 * number)
            node.kill()
            error = call.exception(60)
            assert error is None or (isinstance(error, CniFailed) and error.code == 11), error
            with pytest.raises(CniFailed, match="no agent listens") as failed:
                made.call("DEL")
            assert failed.value.code == 11
            with pytest.raises(CniFailed) as unready:
                cni(node, "STATUS", {})
            assert unready.value.code == 50
            node.start()
            made.delete()
            assert not made.box.works("ip", "link", "show", "eth0")
    assert cni(node, "STATUS", {}) == {}
    assert (veths(node), owners(node)) == (before, [])


def test_status_says_when_the_network_is_not_there(mesh: Mesh) -> None:
    with pytest.raises(CniFailed, match="no network nowhere") as failed:
        cni(mesh.nodes["n1"], "STATUS", {}, network="nowhere")
    assert failed.value.code == 50
    with pod(mesh.nodes["n1"], "c1") as made, pytest.raises(CniFailed) as refused:
        made.add(network="nowhere")
    assert refused.value.code == 7
