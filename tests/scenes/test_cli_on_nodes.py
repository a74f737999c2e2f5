"""Shell. The command line on two real nodes: what it prints, what it exits with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from meshnet.errors import MeshnetError
from meshnet.wire.local import (
    AttachmentInfo,
    NetworkInfo,
    NodeInfo,
    PeerInfo,
    Plan,
    ServiceInfo,
    Status,
    decode,
    encode,
)
from tests.lab.mesh import PROGRAM, Mesh, Node
from tests.lab.waiting import wait_until
from tests.scenes.mesh_scenes import attached, mesh_of

pytestmark = pytest.mark.root

LISTS = {
    "nodes": list[NodeInfo],
    "networks": list[NetworkInfo],
    "services": list[ServiceInfo],
    "peers": list[PeerInfo],
    "attachments": list[AttachmentInfo],
    "status": Status,
    "plan": Plan,
}


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_of(2, "command line") as mesh:
        yield mesh


def typed(node: Node, line: str) -> tuple[int, list[str]]:
    """Type a line at a node; return the exit code and all lines it printed."""
    code, text = node.host.transcript(PROGRAM, *line.split())
    return code, text.splitlines()


@pytest.mark.parametrize("command", LISTS)
def test_what_is_printed_as_json_is_what_the_agent_said(mesh: Mesh, command: str) -> None:
    text = mesh.nodes["n1"].meshnet(command, "--json")
    said = decode(text.encode(), LISTS[command], command)
    assert json.loads(encode(said)) == json.loads(text)


def test_status_names_the_backend_and_a_healthy_node_has_no_warning(mesh: Mesh) -> None:
    code, lines = typed(mesh.nodes["n1"], "status")
    page = dict(line.split(": ", 1) for line in lines)
    assert code == 0
    assert re.fullmatch(r"kernel|wireguard-go \S+", page["WireGuard"])
    assert page["Peers"] == "1 of 1 reachable"
    assert page["Coordinator"].startswith("connected to https://")
    assert "Warning" not in page


def test_every_peer_has_a_row_with_its_handshake(mesh: Mesh) -> None:
    _, lines = typed(mesh.nodes["n1"], "peers")
    rows = [dict(zip(lines[0].split(), re.split(r" {2,}", row), strict=False)) for row in lines[1:]]
    assert [(row["NAME"], row["REACHABLE"]) for row in rows] == [("n2", "yes")]
    assert rows[0]["HANDSHAKE"].endswith(" ago")
    _, candidates = typed(mesh.nodes["n1"], "peers --candidates")
    assert [line.split()[-1] for line in candidates[1:]].count("yes") == 1


def test_an_attachment_is_told_listed_and_taken_away(mesh: Mesh) -> None:
    node = mesh.nodes["n1"]
    with attached(node, "c1", "--service", "web", "--port", "80/tcp") as box:
        [row] = [line for line in typed(node, "attachments")[1] if " c1 " in line]
        assert box.address4 in row
        assert row.endswith("web")
        wait_until(lambda: len(typed(mesh.nodes["n2"], "services")[1]) == 2, 5, "n2 hears of web")
        [row] = typed(mesh.nodes["n2"], "services")[1][1:]
        assert row.split()[:3] == ["web.mesh", "n1", "c1"]
        assert "http:80/tcp" in row
        again = typed(node, f"attach --pid {box.container.inner_pid} --name c1")
        assert again[0] == 4
    assert typed(node, "detach c1")[0] == 3


def test_a_node_without_a_coordinator_has_networks_made_by_one(mesh: Mesh) -> None:
    node = mesh.nodes["n2"]
    code, lines = typed(node, "network create blue --prefix 10.20.0.0/16")
    assert (code, len(lines)) == (0, 1)
    assert lines[0].startswith("network blue: VNI ")
    assert typed(node, "network create blue")[0] == 4
    assert "blue" in [network["name"] for network in json.loads(node.meshnet("networks", "--json"))]
    assert typed(node, "network rm blue") == (0, ["network blue is removed"])
    assert typed(node, "network rm blue")[0] == 3


def test_the_host_offers_a_service_and_takes_it_back(mesh: Mesh) -> None:
    node = mesh.nodes["n1"]
    assert typed(node, "service add shell --port 22 --metadata os=linux")[0] == 0
    [service] = json.loads(node.meshnet("services", "--json"))
    [instance] = service["instances"]
    assert (service["dns"], instance["attachment"]) == ("shell.mesh", "n1")
    assert instance["ports"] == [{"number": 22, "protocol": "tcp", "name": "ssh"}]
    assert instance["metadata"] == {"os": "linux"}
    assert typed(node, "service rm shell")[0] == 0
    assert typed(node, "service rm shell")[0] == 3


def test_names_are_asked_for_and_missing_ones_exit_with_3(mesh: Mesh) -> None:
    node = mesh.nodes["n1"]
    code, lines = typed(node, "dns query n2")
    assert code == 0
    assert lines[0].startswith("; n2.mesh")
    assert re.fullmatch(r"n2\.mesh\.? \d+ IN A 10\.213\.\d+\.\d+", lines[1])
    code, lines = typed(node, "dns query nobody")
    assert code == 3
    assert "NXDOMAIN" in lines[0]


def test_a_static_record_set_on_the_coordinator_is_answered_by_every_node(mesh: Mesh) -> None:
    hub = mesh.coordinator.host
    assert hub.works(PROGRAM, "dns", "set", "printer", "A", "192.0.2.9")
    for node in mesh:
        wait_until(lambda node=node: typed(node, "dns query printer")[0] == 0, 5, "printer.mesh")
    assert hub.works(PROGRAM, "dns", "unset", "printer", "A")
    for node in mesh:
        wait_until(lambda node=node: typed(node, "dns query printer")[0] == 3, 5, "no printer.mesh")


def test_a_plan_is_empty_when_all_is_well_and_says_what_is_missing_when_not(mesh: Mesh) -> None:
    node = mesh.nodes["n1"]
    wait_until(lambda: typed(node, "plan") == (0, []), 10, "nothing to do")
    code, lines = typed(node, "plan --apply")
    assert code == 0
    assert lines[0].startswith("0 operations in ")


def test_the_agent_that_is_down_is_two_lines_and_exit_code_6(mesh: Mesh) -> None:
    node = mesh.nodes["n2"]
    code, lines = typed(node, "down")
    assert code == 0, lines
    assert lines[0] == "• the agent stops and takes all of its own away"
    with pytest.raises(MeshnetError):
        node.status()
    code, lines = typed(node, "status")
    assert code == 6
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]
    assert typed(node, "down")[0] == 0, "a second time there is nothing to do"
    node.start()
    wait_until(lambda: node.whole, 30, "the node is back")
