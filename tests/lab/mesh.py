"""Shell. meshnet on the hosts of a lab, put there by its own command line.

    mesh = Mesh(lab, lab.host("hub", "cloud-a"))
    mesh.start()
    a, b = mesh.join(lab.host("a", "cloud-a")), mesh.join(lab.host("b", "cloud-b"))
    mesh.wait_until_whole()
    box = a.host.container("c1")
    a.attach(box, "--service", "web", "--port", "80/tcp")
    assert b.dig("web.mesh") == [box.address4]

Every command is the installed `meshnet` in a process of its own, and every host is as good as a
machine, so nothing here knows more than an administrator would. What is only looked at (`status`
and the lists) is asked of the agent's socket, by the client that the command line uses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, TypeVar

from meshnet.errors import MeshnetError
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.wire.local import (
    Attached,
    AttachmentInfo,
    NetworkInfo,
    PeerInfo,
    Plan,
    ServiceInfo,
    Status,
    decode,
)
from tests.lab.hosts import Container, Host
from tests.lab.place import Daemon, Place
from tests.lab.topology import Lab
from tests.lab.waiting import wait_until

T = TypeVar("T")

PROGRAM = str(Path(sys.executable).with_name("meshnet"))
COORDINATOR_PORT = 7443
TALKATIVE = {"MESHNET_DEBUG": "1"}
"""Have a daemon that ends by a mistake of ours log where."""

START = 30.0
"""Seconds a daemon may take to be ready, on a busy machine."""


def meshnet(place: Place, *words: str, timeout: float = 60, input: str = "") -> str:
    """Run the command line at a place; return what it prints. It must succeed."""
    return place.run(PROGRAM, *words, timeout=timeout, input=input).stdout


class Coordinator:
    """A coordinator on a host of its own, or on a node's."""

    def __init__(self, host: Host) -> None:
        self.host = host
        first = host.links[0].addresses[0]
        address = f"[{first}]" if first.version == 6 else str(first)
        self.url = f"https://{address}:{COORDINATOR_PORT}"
        self.daemon: Daemon | None = None

    def init(self, *options: str) -> str:
        return meshnet(self.host, "coordinator", "init", "--url", self.url, *options)

    def start(self) -> None:
        """Start it and wait until it answers its administrator."""
        self.daemon = self.host.start("coordinator", PROGRAM, "coordinator", "run", env=TALKATIVE)
        wait_until(self._answers, START, lambda: f"a coordinator that answers\n{self.log()}")

    def _answers(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.running, f"the coordinator has ended\n{self.log()}"
        return self.host.works(PROGRAM, "token", "list")

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()

    def token(self, *options: str) -> str:
        return meshnet(self.host, "token", "create", *options).strip()

    def log(self) -> str:
        return self.daemon.tail(40) if self.daemon else ""


class Node:
    """A host that has joined, and its agent."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.agent: Daemon | None = None

    @property
    def name(self) -> str:
        return self.host.name

    def meshnet(self, *words: str, timeout: float = 60) -> str:
        return meshnet(self.host, *words, timeout=timeout)

    def start(self, *program: str) -> None:
        """Start the agent, `program` or the one installed, and wait until it answers."""
        self.launch(*program)
        self.wait_until_it_answers()

    def launch(self, *program: str) -> None:
        """Start the agent and do not wait for it."""
        self.agent = self.host.start("agent", *(program or (PROGRAM,)), "agent", env=TALKATIVE)

    def wait_until_it_answers(self, limit: float = START) -> None:
        wait_until(self._answers, limit, lambda: f"an agent that answers\n{self.log()}")

    def _answers(self) -> bool:
        assert self.agent is not None
        assert self.agent.running, f"the agent of {self.name} has ended\n{self.log()}"
        try:
            return bool(self.status().node)
        except MeshnetError:
            return False

    def stop(self) -> None:
        """Ask the agent to end, as systemd does."""
        assert self.agent is not None
        self.agent.stop()

    def kill(self) -> None:
        """End the agent at once, and nothing that it started."""
        assert self.agent is not None
        self.agent.kill()

    def log(self) -> str:
        return self.agent.tail(40) if self.agent else ""

    # What the agent tells

    def get(self, path: str, kind: type[T]) -> T:
        settings = Settings(run_dir=self.host.file("/run/meshnet"))
        return Agent(settings).get(path, kind)

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        socket = ("--unix-socket", "/run/meshnet/agent.sock")
        text = self.host.output("curl", "-sS", *socket, "http://agent/metrics")
        lines = (line for line in text.splitlines() if line.startswith(name))
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def status(self) -> Status:
        return self.get("/v1/status", Status)

    def peers(self) -> list[PeerInfo]:
        return self.get("/v1/peers", list[PeerInfo])

    def services(self) -> list[ServiceInfo]:
        return self.get("/v1/services", list[ServiceInfo])

    def attachments(self) -> list[AttachmentInfo]:
        return self.get("/v1/attachments", list[AttachmentInfo])

    def gateways(self, network: str = "default") -> tuple[str, ...]:
        """Return a network's gateways, where its containers ask for names."""
        listed = self.get("/v1/networks", list[NetworkInfo])
        return next(item.gateways for item in listed if item.name == network)

    def plan(self) -> tuple[str, ...]:
        return self.get("/v1/plan", Plan).operations

    @property
    def address4(self) -> str:
        """The node's IPv4 mesh address."""
        return next(address for address in self.status().addresses if ":" not in address)

    @property
    def address6(self) -> str:
        return next(address for address in self.status().addresses if ":" in address)

    @property
    def whole(self) -> bool:
        """Connected, every peer reached, and nothing left to do."""
        status = self.status()
        return status.coordinator.connected and status.counts.reachable == status.counts.peers

    # Containers

    def attach(self, container: Container, *options: str) -> Attached:
        """Attach a container and give it the resolver it was told."""
        words = ("attach", "--pid", str(container.inner_pid), "--json", *options)
        if "--name" not in options:
            words += ("--name", container.name.rpartition(".")[2])
        given = decode(self.meshnet(*words).encode(), Attached, "what attach printed")
        if given.dns:
            container.resolver(*given.dns, search="mesh")
        return given

    def dig(self, name: str, kind: str = "A") -> list[str]:
        """Ask this node's DNS server on its mesh address; return the answers, sorted."""
        return dig(self.host, self.address4, name, kind)

    def __repr__(self) -> str:
        return f"Node({self.name})"


class Mesh:
    """A coordinator and the nodes that joined it."""

    def __init__(self, lab: Lab, host: Host) -> None:
        self.lab = lab
        self.coordinator = Coordinator(host)
        self.nodes: dict[str, Node] = {}

    def start(self) -> None:
        self.coordinator.init()
        self.coordinator.start()

    def join(self, host: Host, *options: str, token: str = "") -> Node:
        """Have a host join, with a token of its own unless one is given, and start its agent."""
        node = self.enrol(host, *options, token=token or self.coordinator.token("--uses", "1"))
        node.start()
        return node

    def enrol(self, host: Host, *options: str, token: str) -> Node:
        """Have a host join; its agent is not started yet."""
        meshnet(host, "join", "-", "--name", host.name, *options, input=f"{token}\n")
        self.nodes[host.name] = node = Node(host)
        return node

    def leave(self, node: Node) -> None:
        """Have a node leave for good."""
        self.nodes.pop(node.name, None)
        node.meshnet("down", "--purge", "--yes")

    def revoke(self, node: Node) -> None:
        """Take a node's membership away, as an administrator."""
        self.nodes.pop(node.name, None)
        meshnet(self.coordinator.host, "node", "revoke", node.name, "--yes")

    def wait_until_whole(self, limit: float = 40) -> None:
        """Wait until every node knows all others and reaches them."""
        for node in self:
            self._wait_until_it_reaches_all(node, limit)

    def _wait_until_it_reaches_all(self, node: Node, limit: float) -> None:
        others = len(self.nodes) - 1

        def reaches_all() -> bool:
            return node.whole and node.status().counts.peers == others

        def said() -> str:
            return f"{node.name} reaches {others} peers\n{node.status()}\n{node.peers()}"

        wait_until(reaches_all, limit, said, pause=0.05 + others / 100)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())


def dig(place: Place, server: str, name: str, kind: str = "A", *options: str) -> list[str]:
    """Ask a server with dig; return the answers as it prints them, sorted."""
    words = ("dig", f"@{server}", "+short", "+tries=1", "+time=2", *options, name, kind)
    answer = place.run(*words, check=False).stdout
    return sorted(line for line in answer.splitlines() if line and not line.startswith(";"))


def addresses(given: Attached) -> tuple[str, str]:
    """Return the IPv4 and IPv6 address of an attachment, without prefix lengths."""
    plain = [ip_interface(address).ip for address in given.addresses]
    four = next(str(address) for address in plain if address.version == 4)
    six = next(str(address) for address in plain if address.version == 6)
    return four, six


def from_json(text: str) -> Any:
    """Read what a command with --json printed."""
    return json.loads(text)
