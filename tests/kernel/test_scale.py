"""Shell. A full mesh of real nodes: every pair answers, and one node more changes nothing for them.

MESHNET_SCALE is how many nodes, 4 unless it says otherwise; fifty need 12 GiB and two CPUs in the
guest. What it took is printed (`pytest -s`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest

from tests.lab import wait_until
from tests.lab.mesh import Mesh, Node
from tests.lab.place import all_processes
from tests.scenes.mesh_scenes import SEGMENT, SITES, UNSTABLE

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.kernel]

COUNT = int(os.environ.get("MESHNET_SCALE", "4"))
LIMIT = 60.0 + 10.0 * COUNT
BURST = 10
"""Nodes that join at the same time: what one more is to all others is done once for ten."""

LOOK = f"""
wg show meshnet0 allowed-ips; wg show meshnet0 endpoints
wg show meshnet0 private-key; wg show meshnet0 listen-port; wg show meshnet0 fwmark
ip -o addr; ip route show table all; ip -6 route show table all; ip rule; nft list ruleset
nsenter --net={SEGMENT[1].removeprefix("--net=")} sh -euc '
    ip -o -d link; ip -o addr; bridge fdb; ip neigh show nud permanent'
"""


@pytest.fixture(scope="module")
def room() -> Iterator[None]:
    """Hosts of a lab share one table of neighbours with the kernel they run on. It holds 1,024 (of
    each family) unless told otherwise, which is 33 hosts on one subnet that know each other."""
    limits = sorted(Path("/proc/sys/net").glob("ipv?/neigh/default/gc_thresh?"), reverse=True)
    before = {path: path.read_text() for path in limits}
    for path in limits:
        path.write_text(str(max(int(before[path]), 4 * COUNT * COUNT)))
    yield
    for path in reversed(limits):
        path.write_text(before[path])


@pytest.fixture(scope="module")
def crowd(room: None, mesh: Mesh) -> Iterator[Mesh]:
    """The mesh of all scenes in here, and for a while as many nodes more as are asked for."""
    started = time.monotonic()
    token = mesh.coordinator.token("--uses", str(COUNT))
    more = [f"more{number}" for number in range(COUNT - len(mesh.nodes))]
    for burst in batched(more, BURST):
        for name in burst:
            mesh.enrol(mesh.lab.host(name, next(iter(SITES))), token=token)
        for name in burst:
            mesh.nodes[name].launch()
        for name in burst:
            mesh.nodes[name].wait_until_it_answers(LIMIT)
        mesh.wait_until_whole(LIMIT)
        print(f"{len(mesh.nodes)} nodes are whole after {time.monotonic() - started:.1f} s")
    yield mesh
    for name in more:
        leave(mesh, mesh.nodes[name])


@pytest.mark.timeout(0)
def test_every_pair_answers(crowd: Mesh) -> None:
    addresses = {node.name: own_address(node) for node in crowd}
    targets: dict[str, list[str]] = {name: [] for name in addresses}
    for here, there in combinations(addresses, 2):
        targets[here] += [addresses[there], crowd.nodes[there].address4]
    started = time.monotonic()

    silent = {name: unanswered(crowd.nodes[name], targets[name]) for name in addresses}

    assert not any(silent.values()), silent
    pairs = COUNT * (COUNT - 1) // 2
    print(f"{pairs} pairs answered after {time.monotonic() - started:.1f} s; {costs(crowd)}")


@pytest.mark.timeout(0)
def test_one_node_more_changes_nothing_for_the_others(crowd: Mesh) -> None:
    nodes = list(crowd)
    before = {node.name: lines(node) for node in nodes}
    started = time.monotonic()

    late = crowd.join(crowd.lab.host("late", next(iter(SITES))))
    crowd.wait_until_whole(LIMIT)
    took = time.monotonic() - started

    key, own = late.status().public_key, own_address(late)
    for node in nodes:
        wait_until(partial(knows, node, own), 10, f"{node} knows it")
        after = lines(node)
        assert before[node.name] - after == set(), f"{node} lost or changed something"
        strange = [line for line in after - before[node.name] if not is_of(line, late, key, own)]
        assert strange == [], f"{node} got something that is not the new node's"
    assert unanswered(late, [own_address(node) for node in nodes]) == []
    print(f"one more joined and whole after {took:.1f} s")
    leave(crowd, late)


def knows(node: Node, address: str) -> bool:
    return any(address in line for line in lines(node))


def batched(names: list[str], size: int) -> list[list[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


def leave(mesh: Mesh, node: Node) -> None:
    mesh.revoke(node)
    node.meshnet("down", "--purge", "--yes")


def own_address(node: Node) -> str:
    """Return the host's own IPv4 address on network `default`."""
    words = node.host.output("ip", "-4", "-o", "addr", "show", "dev", "mesh-default").split()
    return words[words.index("inet") + 1].split("/")[0]


def unanswered(node: Node, targets: list[str]) -> list[str]:
    """Ping all from a node, each once and those that are silent once more; return the silent."""
    once = "for it; do ping -n -c1 -W2 $it >/dev/null || ping -n -c1 -W5 $it >/dev/null || echo $it"
    said = node.host.output("sh", "-c", f"{once}; done", "sh", *targets, timeout=LIMIT)
    return said.split()


def lines(node: Node) -> set[str]:
    """Return what there is on a node, line by line, without the counters and numbers of links."""
    found = set()
    for line in node.host.shell(LOOK, timeout=60).splitlines():
        words = UNSTABLE.sub("", line).split()
        if len(words) > 1 and words[0].endswith("="):  # a peer: each of its words by itself
            found |= {f"{words[0]} {word}" for word in words[1:]}
        else:
            found.add(" ".join(words))
    return found


def is_of(line: str, late: Node, key: str, own: str) -> bool:
    """Say whether a line tells of the new node: by its key, VTEP, address or MAC."""
    (attachment,) = late.attachments()
    return any(word in line for word in (key, late.address4, own, attachment.mac))


def costs(crowd: Mesh) -> str:
    """Return what the mesh costs in memory and has cost in processor time, all agents together."""
    daemons = [pid for node in crowd for pid in node.host.processes() if pid != node.host.pid]
    running = set(all_processes()) & set(daemons)
    pages = sum(int(read(pid, "statm").split()[1]) for pid in running)
    ticks = sum(
        sum(map(int, read(pid, "stat").rpartition(")")[2].split()[11:13])) for pid in running
    )
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    cpu = ticks / os.sysconf("SC_CLK_TCK")
    return f"{len(running)} processes, {memory:.0f} MiB, {cpu:.0f} s of CPU"


def read(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()
