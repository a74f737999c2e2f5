"""Shell. The CNI plugin as a runtime calls it, on real nodes with real namespaces.

How often things happen can be raised, as for a night: MESHNET_KILLS (50), MESHNET_PODS (200) at
once, MESHNET_ROUNDS (100) of one container.
"""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from meshnet.containers.carrier import ask, pack
from tests.lab import Container, wait_until
from tests.lab.mesh import PROGRAM, Mesh, Node
from tests.scenes.mesh_scenes import can_ping, dump, mesh_of

pytestmark = [pytest.mark.root, pytest.mark.slow]

PLUGIN = str(Path(PROGRAM).with_name("meshnet-cni"))
VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
KILLS = int(os.environ.get("MESHNET_KILLS", "8"))
PODS = int(os.environ.get("MESHNET_PODS", "40"))
ROUNDS = int(os.environ.get("MESHNET_ROUNDS", "20"))
CODES = {1, 2, 3, 4, 5, 6, 7, 11, 50, 51, *range(100, 119)}
"""What a runtime may be answered: the specification's errors and ours, but no mistake of ours."""


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


def remains(mesh: Mesh, node: Node) -> tuple[object, ...]:
    """Return what a node has of containers, and what another one knows of them."""
    names = [item.name for item in node.attachments()]
    known = [other.status().counts for other in mesh if other is not node]
    return veths(node), owners(node), names, [(one.attachments, one.instances) for one in known]


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


@pytest.mark.timeout(300)
def test_parallel_adds_give_each_its_own_and_gc_keeps_what_it_is_told(mesh: Mesh) -> None:
    node = mesh.nodes["n1"]
    before = remains(mesh, node)
    boxes = [node.host.container(f"p{number}") for number in range(PODS)]
    pods = [Pod(node, box, f"p{number}") for number, box in enumerate(boxes)]
    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(Pod.add, pods))
    assert len({address4(result) for result in results}) == PODS
    assert can_ping(boxes[0], address4(results[-1]))
    kept = {"containerID": "p3", "ifname": "eth0"}
    cni(node, "GC", {}, name="other", **{"cni.dev/valid-attachments": []})
    assert len(owners(node)) == PODS
    cni(node, "GC", {}, **{"cni.dev/valid-attachments": [kept]})
    assert owners(node) == ["cni/pods/p3/eth0"]
    assert boxes[3].works("ip", "link", "show", "eth0")
    assert not boxes[4].works("ip", "link", "show", "eth0")
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(Pod.delete, pods))
    for box in boxes:
        node.host.remove(box)
    wait_until(lambda: remains(mesh, node) == before, 5, lambda: remains(mesh, node))


def test_the_same_container_again_and_again_leaves_the_host_as_it_was(mesh: Mesh) -> None:
    node = mesh.nodes["n1"]
    before, kernel = remains(mesh, node), dump(node.host)
    with pod(node, "again") as made:
        given = set()
        for _ in range(ROUNDS):
            given.add(address4(made.add()))
            made.delete()
    assert len(given) == ROUNDS, "an address rests before it is given again"
    wait_until(lambda: remains(mesh, node) == before, 5, lambda: remains(mesh, node))
    assert dump(node.host) == kernel


@pytest.mark.timeout(600)
def test_an_agent_killed_in_the_middle_leaves_nothing(mesh: Mesh) -> None:
    node = mesh.nodes["n2"]
    before = remains(mesh, node)
    for number in range(KILLS):
        with pod(node, f"k{number}") as made, ThreadPoolExecutor(1) as pool:
            command = "ADD" if number % 2 else "DEL"
            if command == "DEL":
                made.add()
            call = pool.submit(made.call, command)
            wait([call], 0.01 + random.uniform(0, 0.06))
            node.kill()
            error = call.exception(60)
            assert error is None or (isinstance(error, CniFailed) and error.code == 11), error
            if number < 2:
                refused_without_an_agent(made)
            node.start()
            made.delete()
            assert not made.box.works("ip", "link", "show", "eth0")
    assert cni(node, "STATUS", {}) == {}
    wait_until(lambda: remains(mesh, node) == before, 20, lambda: remains(mesh, node))


def test_a_plugin_killed_in_the_middle_leaves_nothing_that_del_does_not_find(mesh: Mesh) -> None:
    node = mesh.nodes["n1"]
    before = remains(mesh, node)
    path = str(node.host.file("/run/meshnet/agent.sock"))
    config = json.dumps({"cniVersion": "1.1.0", "name": "pods", "type": "meshnet-cni"}).encode()
    for number in range(10):
        with pod(node, f"g{number}") as made:
            env = {"CNI_COMMAND": "ADD", "CNI_NETNS": made.box.netns_path, "CNI_IFNAME": "eth0"}
            raw = {key.encode(): value.encode() for key, value in env.items()}
            body = pack({**raw, b"CNI_CONTAINERID": made.id.encode()}, config)
            head = f"POST /v1/cni HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            with socket.socket(socket.AF_UNIX) as plugin:
                plugin.connect(path)
                plugin.sendall(head + body)
            made.delete()
            assert not made.box.works("ip", "link", "show", "eth0")
    wait_until(lambda: remains(mesh, node) == before, 5, lambda: remains(mesh, node))


def refused_without_an_agent(made: Pod) -> None:
    for command, code in (("ADD", 11), ("DEL", 11), ("STATUS", 50)):
        with pytest.raises(CniFailed, match="no agent listens") as failed:
            made.call(command)
        assert failed.value.code == code


def test_with_the_coordinator_down_containers_come_and_go_and_are_found(mesh: Mesh) -> None:
    here, there = mesh.nodes["n1"], mesh.nodes["n2"]
    mesh.coordinator.kill()
    wait_until(lambda: not here.status().coordinator.connected, 20, "the node is on its own")
    with pod(here, "client") as client, pod(there, "alone") as server:
        client.add()
        address = address4(server.add(service="solo", ports=["80"]))
        for name in ("alone.mesh", "solo.mesh"):
            wait_until(lambda name=name: here.dig(name) == [address], 10, name)
        wait_until(lambda: can_ping(client.box, address), 5, "pod to pod")
        server.delete()
        wait_until(lambda: here.dig("solo.mesh") == [], 10, "the name is gone")
    mesh.coordinator.start()
    mesh.wait_until_whole()


def wrong_calls(seed: int, count: int, netns: str) -> Iterator[tuple[dict[str, str], bytes]]:
    """Yield calls that are wrong, each in one way."""
    chance = random.Random(seed)
    values = [None, 0, -1, 1.5, True, "", "a b", "x" * 5000, "\n", "/", [], [None], {}, {"x": 1}]
    good_env = {"CNI_CONTAINERID": "bad", "CNI_NETNS": netns, "CNI_IFNAME": "eth0"}
    good = {"cniVersion": "1.1.0", "name": "pods", "type": "meshnet-cni"}
    wrong: dict[str, list[Any]] = {
        "cniVersion": [*values, "9.9.9"],
        "name": values,
        "network": [0, [], {}, "nowhere", "x" * 300, "a b", "../x"],
        "service": [0, [], "_", "a b", "x" * 300],
        "ports": [0, "80", ["http"], [80], ["0"], ["65536/tcp"]],
        "interface": [0, "x" * 16, "a/b", "a b", ".."],
        "args": [0, "x", {"cni": 1}, {"cni": {"labels": [1]}}, {"cni": {"ips": ["x"]}}],
        "runtimeConfig": [1, {"ips": ["10.0.0.300"]}, {"ips": ["192.0.2.1"]}, {"mac": "x"}],
        "prevResult": [1, "x", [], {"interfaces": "x"}, {"ips": [1]}],
    }
    environment = {
        "CNI_COMMAND": ["", "add", "ADD ", "x" * 5000],
        "CNI_CONTAINERID": ["", "..", "a/b", "x" * 300, "\udcff"],
        "CNI_NETNS": ["", "/", "/proc/self/ns/net", "/proc/1/ns/mnt", "/none", "x" * 5000],
        "CNI_IFNAME": ["", "..", "a/b", "x" * 16, "a b", "\udcff"],
        "CNI_ARGS": ["IP", "=1", "IP=x", "MAC=02:00:00:00:00:01"],
    }
    whole = json.dumps(good).encode()
    for _ in range(count):
        env, data = {"CNI_COMMAND": "ADD", **good_env}, whole
        kind = chance.choice(["value", "environment", "cut", "bytes"])
        if kind == "value":
            key = chance.choice(sorted(wrong))
            data = json.dumps({**good, key: chance.choice(wrong[key])}).encode()
        elif kind == "environment":
            key = chance.choice(sorted(environment))
            env[key] = chance.choice(environment[key])
        elif kind == "cut":
            data = whole[: chance.randrange(len(whole) - 1)]
        else:
            data = bytes(chance.randrange(256) for _ in range(chance.randrange(80)))
        yield env, data


def test_wrong_input_is_a_clear_error_and_changes_nothing(mesh: Mesh) -> None:
    node = mesh.nodes["n1"]
    box = node.host.container("bad")
    path = str(node.host.file("/run/meshnet/agent.sock"))
    before = remains(mesh, node), dump(node.host), node.attachments(), node.status().revision
    for env, data in wrong_calls(os.getpid(), 300, box.netns_path):
        raw = {key.encode(): os.fsencode(value) for key, value in env.items()}
        status, output = ask(path, raw, data)
        error = json.loads(output)
        assert status == 1, (env, data, output)
        assert set(error) == {"cniVersion", "code", "msg", "details"}
        assert error["code"] in CODES, (env, data, error)
        assert error["msg"]
    assert before == (
        *(remains(mesh, node), dump(node.host), node.attachments(), node.status().revision),
    )
    assert box.output("ip", "-o", "link").count("\n") == 1, "loopback alone"
    node.host.remove(box)


def test_status_says_when_no_address_is_left(mesh: Mesh) -> None:
    """A network for five containers: a lease for more is asked for, and refused."""
    node = mesh.nodes["n1"]
    network = f"tiny{os.getpid()}"
    node.meshnet("network", "create", network, "--prefix", "10.77.7.0/29")
    with ExitStack() as pods:
        made = [pods.enter_context(pod(node, f"t{number}")) for number in range(6)]
        for each in made[:5]:
            assert cni(node, "STATUS", {}, network=network) == {}
            each.add(network=network)
        for refuses, code in ((partial(cni, node, "STATUS", {}), 50), (made[5].add, 104)):
            with pytest.raises(CniFailed, match=network) as failed:
                refuses(network=network)
            assert failed.value.code == code
        made[0].delete()
        assert cni(node, "STATUS", {}, network=network) == {}
    node.meshnet("network", "rm", network)


def test_status_says_when_the_network_is_not_there(mesh: Mesh) -> None:
    with pytest.raises(CniFailed, match="no network nowhere") as failed:
        cni(mesh.nodes["n1"], "STATUS", {}, network="nowhere")
    assert failed.value.code == 50
    with pod(mesh.nodes["n1"], "c1") as made, pytest.raises(CniFailed) as refused:
        made.add(network="nowhere")
    assert refused.value.code == 7
