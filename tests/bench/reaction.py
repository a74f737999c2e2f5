"""J1, S1, S2: how soon the mesh reacts: to a join, to a change of a service, to a dead node.

    python -m tests.bench.reaction [--nodes 4] [--rounds 10]

Real agents, a real coordinator and real tunnels on hosts in namespaces, as many as --nodes.

    J1  `meshnet join` typed on a fresh host → the first ping between its container and another's.
        All programs are started as a person would: join, agent, attach.
    S1  a service is added to a container → every other node's DNS answers it.
    S2  a node's cable is cut → every other node's DNS leaves its instance out.

DNS is asked without pause, over a socket in each host's namespace.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import struct
import time
from collections.abc import Callable

from meshnet.linux.netlink import in_namespace
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.wire.local import Done, ServiceRequest
from tests.lab.guest import has_wireguard
from tests.lab.mesh import PROGRAM, Mesh, Node, addresses
from tests.lab.topology import Lab
from tests.lab.waiting import wait_until

LIMIT = 20.0


class Asker:
    """Asks one node's DNS server from its own host."""

    def __init__(self, node: Node) -> None:
        self.name = node.name
        server = node.address4
        pid = node.host.pid
        self._socket = in_namespace(f"/proc/{pid}/ns/net", self._open)
        self._socket.connect((server, 53))
        self._socket.settimeout(0.5)
        self._number = 0

    @staticmethod
    def _open() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def answers(self, name: str) -> int:
        """Return how many records are answered for a name."""
        self._number = (self._number + 1) % 65536
        labels = b"".join(bytes([len(word)]) + word.encode() for word in name.split("."))
        query = struct.pack(">HHHHHH", self._number, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
        try:
            self._socket.send(query)
            while True:
                answer = self._socket.recv(4096)
                if answer[:2] == query[:2]:
                    return int.from_bytes(answer[6:8], "big")
        except OSError:
            return -1


def seconds_until(predicate: Callable[[], bool], start: float, what: str) -> float:
    while not predicate():
        if time.monotonic() - start > LIMIT:
            raise TimeoutError(f"not within {LIMIT:g} s: {what}")
    return time.monotonic() - start


def join(mesh: Mesh, lab: Lab, number: int, target: str) -> float:
    """J1 on a fresh host; the node stays."""
    host = lab.host(f"late{number}", "lan")
    box = host.container("box")
    token = mesh.coordinator.token("--uses", "1")
    start = time.monotonic()
    host.run(PROGRAM, "join", "-", "--name", host.name, input=f"{token}\n")
    agent = host.start("agent", PROGRAM, "agent")
    # A person attaches when the agent is there; trying all the time would keep it from its work.
    socket_file = host.file("/run/meshnet/agent.sock")
    wait_until(socket_file.exists, LIMIT, "the agent is there", pause=0.005)
    while not host.works(PROGRAM, "attach", "--pid", str(box.inner_pid), "--name", "box"):
        assert agent.running, agent.tail()
        assert time.monotonic() - start < LIMIT, agent.tail()
    seconds_until(lambda: box.works("ping", "-c1", "-W0.05", target), start, "a ping")
    took = time.monotonic() - start
    mesh.nodes[host.name] = node = Node(host)
    node.agent = agent
    return took


def service(nodes: list[Node], askers: list[Asker], number: int) -> float:
    """S1: seconds until all answer a new service of the first node's container."""
    name = f"s{number}"
    start = time.monotonic()
    client = Agent(Settings(run_dir=nodes[0].host.file("/run/meshnet")))
    client.post("/v1/services", ServiceRequest(service=name, attachment="box"), Done)
    for asker in askers:
        seconds_until(lambda: asker.answers(f"{name}.mesh") > 0, start, f"{asker.name} answers")  # noqa: B023
    return time.monotonic() - start


def death(victim: Node, askers: list[Asker]) -> float:
    """S2: seconds until all others leave the victim's instance out."""
    for link in victim.host.links:
        link.cut()
    start = time.monotonic()
    for asker in askers:
        seconds_until(lambda: asker.answers("web.mesh") == 1, start, f"{asker.name} leaves it out")  # noqa: B023
    took = time.monotonic() - start
    for link in victim.host.links:
        link.restore()
    for asker in askers:
        seconds_until(lambda: asker.answers("web.mesh") == 2, time.monotonic(), "it comes back")  # noqa: B023
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with Lab("bench: reaction") as lab:
        lab.subnet("lan", "192.0.2.0/24")
        mesh = Mesh(lab, lab.host("hub", "lan"))
        mesh.start()
        nodes = [mesh.join(lab.host(f"n{number}", "lan")) for number in range(options.nodes)]
        mesh.wait_until_whole()
        boxes = [node.host.container("box") for node in nodes]
        given = [
            node.attach(box, "--service", "web") if number < 2 else node.attach(box)
            for number, (node, box) in enumerate(zip(nodes, boxes, strict=True))
        ]
        target = addresses(given[0])[0]
        askers = [Asker(node) for node in nodes]
        results = {
            "S1 service added → all answer": [
                service(nodes, askers[1:], number) for number in range(options.rounds)
            ],
            "S2 node cut off → all leave it out": [
                death(nodes[1], [askers[0], *askers[2:]])
                for _ in range(max(3, options.rounds // 3))
            ],
            "J1 join typed → first ping": [
                join(mesh, lab, number, target) for number in range(max(3, options.rounds // 3))
            ],
        }
    backend = "kernel" if has_wireguard() else "wireguard-go"
    print(f"\nWireGuard: {backend}, Linux {os.uname().release}, {options.nodes} nodes")
    for title, times in results.items():
        print(
            f"{title:<38} median {statistics.median(times) * 1000:7.0f} ms   "
            f"{min(times) * 1000:.0f}-{max(times) * 1000:.0f} ms, {len(times)} rounds"
        )


if __name__ == "__main__":
    main()
