"""Shell. Events come faster than the agent's sockets hold them: what was changed meanwhile is not
overlooked, and nobody's packets are lost over it.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.kernel.traffic import unbroken
from tests.lab import wait_until
from tests.lab.mesh import Mesh, Node
from tests.scenes.mesh_scenes import Box, can_ping, differences
from tests.scenes.test_mesh_repair import IN, ours, repaired, words_of

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.kernel]

WITHIN = 5.0

FLOOD = """
ip link add flood0 type bridge
for n in $(seq 1000); do echo "link set flood0 alias flood$n"; done | ip -batch -
ip link del flood0
"""
DRIFT = f"""
ip route flush proto 109
ip addr del $own/32 dev meshnet0
{IN} bridge fdb replace $mac dev vx0 dst 192.0.2.99
{IN} ip neigh del $address dev vx0
"""

_libc = ctypes.CDLL(None, use_errno=True)
_PIDFD_GETFD = 438


def test_what_changes_while_events_are_lost_is_repaired(mesh: Mesh, boxes: tuple[Box, Box]) -> None:
    a, b = boxes
    node = mesh.nodes["n1"]
    wait_until(lambda: node.plan() == (), 10, "nothing to do before")
    before, repairs, lost = ours(node), sum(node.status().repairs.values()), overflows(node)
    shrink_buffers(node)

    node.host.shell(words_of(a, b) + FLOOD + DRIFT + FLOOD)

    wait_until(
        lambda: repaired(node, before, repairs),
        WITHIN,
        lambda: f"repaired\n{differences(before, ours(node))}\n{node.status().repairs}",
    )
    assert overflows(node) > lost
    wait_until(lambda: can_ping(a.container, b.address4), 10, "c1 reaches c2 again")


def test_a_flood_of_events_loses_no_packet(mesh: Mesh, boxes: tuple[Box, Box]) -> None:
    a, _ = boxes
    with unbroken(*boxes):
        for _ in range(3):
            a.node.host.shell(FLOOD)
        wait_until(lambda: a.node.plan() == (), 10, "nothing left to do")
    assert a.node.whole


def shrink_buffers(node: Node) -> None:
    """Leave the agent's sockets for events room for one or two, while it runs."""
    shrunk = 0
    for one in sockets_of(agent_pid(node)):
        with closing(one):
            if one.family == socket.AF_NETLINK and one.getsockname()[1]:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                shrunk += 1
    assert shrunk >= 3  # the host's, nft's, and that of network `default`


def sockets_of(pid: int) -> Iterator[socket.socket]:
    """Yield a second descriptor of every socket that a process has open (pidfd_getfd(2))."""
    process = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if str(entry.readlink()).startswith("socket:"):
                descriptor = _libc.syscall(_PIDFD_GETFD, process, int(entry.name), 0)
                yield socket.socket(fileno=descriptor)
    finally:
        os.close(process)


def agent_pid(node: Node) -> int:
    assert node.agent is not None
    return node.agent.process.pid


def overflows(node: Node) -> int:
    """Return how many events the kernel could not deliver to sockets of the agent's host."""
    rows = [row.split() for row in node.host.output("cat", "/proc/net/netlink").splitlines()]
    return sum(int(row[rows[0].index("Drops")]) for row in rows[1:])
