"""Shell. The play: a table of steps, each a title and what happens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from tests.demo.world import HUB, World, hidden
from tests.lab import Capture, Container, Host
from tests.lab.mesh import Node

SERVERS = {
    "web-a": ("cloud-a1", "web", "http:80/tcp"),
    "web-b": ("cloud-b1", "web", "http:80/tcp"),
    "db-1": ("cloud-b2", "db", "postgresql:5432/tcp"),
}
"""Container → its machine, its service, its port."""

CLIENT, CLIENT_HOST = "client", "office1"
SRV = "_http._tcp.web.mesh"
DIG = ("dig", "+noall", "+answer")
GONE_WITHIN = 10.0
TRIES = 12
"""Requests until both instances must have answered; they are answered in turn."""


@dataclass(frozen=True)
class Step:
    """One step of the play. It raises when something does not hold."""

    title: str
    play: Callable[[World], None]


def build(world: World) -> None:
    """Three sites with a router between them, five machines."""
    world.build()
    world.screen.output(world.lab.draw())


def start_coordinator(world: World) -> None:
    """The hub gets a coordinator."""
    hub = world.hosts[HUB]
    world.type(hub, "meshnet", "coordinator", "init", "--url", world.mesh.coordinator.url)
    world.screen.typed(hub.name, "meshnet coordinator run &")
    world.mesh.coordinator.start()
    world.screen.found("it listens")


def join_all(world: World) -> None:
    """Every other machine joins."""
    for name, host in world.hosts.items():
        if name != HUB:
            _join(world, host)


def _join(world: World, host: Host) -> None:
    """One token, one machine: its keys are made on it and stay there."""
    token = world.mesh.coordinator.token("--ttl", "10m")
    world.screen.typed(HUB, "meshnet token create --ttl 10m", f"for {host.name}")
    world.screen.output(hidden(token, token))
    world.type(host, "meshnet", "join", token, "--name", host.name, hide=token)
    world.screen.typed(host.name, "meshnet agent &")
    world.nodes[host.name] = node = Node(host)
    node.start()


def look(world: World) -> None:
    """The mesh is whole: status and peers."""
    world.mesh.wait_until_whole()
    for node in world.nodes.values():
        node.host.resolver(node.address4)
    first = world.nodes["cloud-a1"]
    world.type(first.host, "meshnet", "status")
    world.type(first.host, "meshnet", "peers")
    status = first.status()
    reached = f"{status.counts.reachable} of {status.counts.peers} peers reached"
    world.expect(status.counts.reachable == 3, f"{reached}, WireGuard: {status.backend}")


def attach_all(world: World) -> None:
    """Containers: web on two machines, db on a third, a client on the fourth."""
    for name in SERVERS:
        _attach_server(world, name)
    _attach(world, _container(world, CLIENT_HOST, CLIENT))


def _attach_server(world: World, name: str) -> None:
    machine, service, port = SERVERS[name]
    container = _container(world, machine, name)
    number = port.partition(":")[2].partition("/")[0]
    says = f"{service} on {machine}"
    container.start(service, sys.executable, "-m", "tests.demo.web", says, number)
    _attach(world, container, "--service", service, "--port", port)


def _container(world: World, machine: str, name: str) -> Container:
    world.containers[name] = world.hosts[machine].container(name)
    return world.containers[name]


def _attach(world: World, container: Container, *options: str) -> None:
    name = container.name.rpartition(".")[2]
    pid = str(container.inner_pid)
    world.type(container.host, "meshnet", "attach", "--pid", pid, "--name", name, *options)
    container.resolver(*world.nodes[container.host.name].gateways(), search="mesh")


def ask_names(world: World) -> None:
    """Names, asked for in a container and on a host."""
    client, host = world.containers[CLIENT], world.hosts["cloud-b2"]
    world.wait(lambda: len(_answers(client)) == 2, 10, "both instances are known", client)
    world.type(client, *DIG, "web.mesh")
    answer = world.type(client, *DIG, "SRV", SRV)
    world.expect(answer.count("SRV") == 2, "two instances, found from a container", client)
    node = world.nodes[host.name]
    world.screen.note(f"{host.name} asks its own node: nameserver {node.address4}")
    world.type(host, *DIG, "web.mesh")
    answer = world.type(host, *DIG, "SRV", SRV)
    world.expect(answer.count("SRV") == 2, "two instances, found from a host", host)


def _answers(container: Container) -> list[str]:
    return container.run("dig", "+short", "web.mesh", check=False).stdout.split()


def request(world: World) -> None:
    """HTTP by service name, across machines and sites."""
    client = world.containers[CLIENT]
    said = {world.type(client, "curl", "-sS", "http://web.mesh/") for _ in range(2)}
    for _ in range(TRIES):
        said.add(client.output("curl", "-sS", "http://web.mesh/"))
    machines = sorted(machine for machine, service, _ in SERVERS.values() if service == "web")
    answered = [name for name in machines if any(name in text for text in said)]
    world.expect(answered == machines, f"answers came from {' and '.join(answered)}", client)
    world.type(client, "curl", "-sS", "-6", "http://web.mesh/")
    text = world.type(client, "curl", "-sS", "http://db.mesh:5432/")
    world.expect("db on cloud-b2" in text, "IPv6 too, and db by its own name", client)
    host = world.hosts["cloud-b2"]
    text = world.type(host, "curl", "-sS", "http://web.mesh/")
    world.expect("web on" in text, "and a host asks as well as a container", host)


def listen(world: World) -> None:
    """What the wire carries: WireGuard, and nothing of the request."""
    client, host = world.containers[CLIENT], world.hosts[CLIENT_HOST]
    link = host.links[0]
    webs = [world.hosts[machine].address4 for machine in ("cloud-a1", "cloud-b1")]
    between = f"host {host.address4} and (host {webs[0]} or host {webs[1]})"
    attachments = world.nodes[host.name].attachments()
    interface = next(item.interface for item in attachments if item.name == CLIENT)
    with (
        link.capture() as wire,
        link.capture(between) as tunnel,
        Capture(client, interface) as inside,
    ):
        for _ in range(3):
            world.type(client, "curl", "-sS", f"http://web.mesh/{world.secret}")
    secret = world.secret.encode()
    kinds = dict(sorted(tunnel.kinds().items()))
    world.screen.typed(link.subnet.router.name, f"tcpdump -i {link.port} '{between}'")
    world.screen.output(", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    world.expect(list(kinds) == ["wireguard"], "between the machines: WireGuard packets only")
    frames = len(wire.frames())
    world.expect(inside.contains(secret), f"in the container, {world.secret!r} can be read")
    world.expect(not wire.contains(secret), f"on the underlay, in {frames} packets, it cannot")


def lose_one(world: World) -> None:
    """One machine loses its power; the names know it."""
    client, lost = world.containers[CLIENT], world.hosts["cloud-a1"]
    world.screen.note(f"{lost.name} loses its power: no process of it ends in order.")
    lost.power_off()
    seconds = world.wait(lambda: len(_answers(client)) == 1, GONE_WITHIN, "one is left", client)
    world.type(client, *DIG, "web.mesh")
    text = world.type(client, "curl", "-sS", "http://web.mesh/")
    world.expect("cloud-b1" in text, f"{lost.name} was left out after {seconds:.1f} s", client)


def come_back(world: World) -> None:
    """Power again: the machine knows who it is, and boots into the mesh."""
    client, back = world.containers[CLIENT], world.hosts["cloud-a1"]
    back.power_on()
    world.screen.typed(back.name, "meshnet agent &", "what systemd does at boot")
    world.nodes[back.name].start()
    _attach_server(world, "web-a")
    seconds = world.wait(lambda: len(_answers(client)) == 2, GONE_WITHIN, "both are back", client)
    world.type(client, *DIG, "web.mesh")
    world.screen.found(f"web on {back.name} is answered again, {seconds:.1f} s after its container")


STEPS = (
    Step("Three sites, a router between them, five machines", build),
    Step("A coordinator, so that machines can be let in", start_coordinator),
    Step("Each machine joins with a token of its own", join_all),
    Step("The mesh: everyone reaches everyone, encrypted", look),
    Step("Containers get interfaces, addresses and names", attach_all),
    Step("Names are answered by every node, to containers and hosts", ask_names),
    Step("A request by service name, across sites", request),
    Step("What an eavesdropper on the underlay gets", listen),
    Step("A machine dies, and the names know it", lose_one),
    Step("It comes back, without a token", come_back),
)
