"""Shell. What the scenes of a whole mesh share: meshes ready to play on, containers, dumps."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from meshnet.wire.local import Attached
from tests.lab import Container, Daemon, Host, Lab, Place, wait_until
from tests.lab.mesh import Mesh, Node, addresses

SITES = {
    "cloud-a": ("192.0.2.0/24", "2001:db8:a::/64"),
    "cloud-b": ("198.51.100.0/24", "2001:db8:b::/64"),
}
SEGMENT = ("nsenter", "--net=/run/netns/meshnet-default")
"""Before a command: run it in the namespace of network `default`."""

INTERVAL = 0.05
"""Seconds between two pings of a stream: a gap of this length is a lost packet."""


@contextmanager
def mesh_of(count: int, title: str) -> Iterator[Mesh]:
    """Play on a whole mesh: nodes n1, n2, … on two sites in turn, the hub on the first."""
    with Lab(title) as lab:
        for site, prefixes in SITES.items():
            lab.subnet(site, *prefixes)
        mesh = Mesh(lab, lab.host("hub", "cloud-a"))
        mesh.start()
        sites = list(SITES)
        token = mesh.coordinator.token("--uses", str(count))
        for number in range(count):
            mesh.join(lab.host(f"n{number + 1}", sites[number % len(sites)]), token=token)
        mesh.wait_until_whole(40.0 + 5 * count)
        yield mesh


@dataclass(frozen=True)
class Box:
    """A container that is attached."""

    node: Node
    container: Container
    given: Attached

    @property
    def address4(self) -> str:
        return addresses(self.given)[0]

    @property
    def address6(self) -> str:
        return addresses(self.given)[1]


@contextmanager
def attached(node: Node, name: str, *options: str) -> Iterator[Box]:
    """Attach a new container of `node` for a while."""
    container = node.host.container(name)
    network = options[options.index("--network") + 1] if "--network" in options else "default"
    try:
        given = node.attach(container, *options)
    except BaseException:
        node.host.remove(container)
        raise
    try:
        yield Box(node, container, given)
    finally:
        if node.host.containers.get(name) is container:
            node.meshnet("detach", name, "--network", network)
            node.host.remove(container)


def stream(box: Box, address: str, seconds: float) -> Daemon:
    """Start a stream of pings, one every INTERVAL, that ends by itself."""
    count = str(round(seconds / INTERVAL))
    return box.container.start("ping", "ping", "-n", "-i", str(INTERVAL), "-c", count, address)


def lost_of(ping: Daemon) -> int:
    """Wait until a stream has ended; return how many of its packets were not answered."""
    wait_until(lambda: not ping.running, 60, "the stream of pings ends")
    found = re.search(r"(\d+) packets transmitted, (\d+) received", ping.text())
    assert found, ping.text()
    return int(found[1]) - int(found[2])


def can_ping(place: Place, address: str) -> bool:
    return place.works("ping", "-n", "-c1", "-W2", address)


def everywhere(nodes: Sequence[Node], name: str, expected: Sequence[str]) -> bool:
    """Say whether every node answers `name` with exactly these addresses."""
    return all(node.dig(name) == sorted(expected) for node in nodes)


def differences(before: str, after: str) -> str:
    """Return the lines that differ, as `diff` shows them."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "was", "is", n=0)
    return "\n".join(line.rstrip("\n") for line in lines)


DUMPS = {
    "links": ("ip", "-d", "-o", "link"),
    "addresses": ("ip", "-o", "addr"),
    "routes": ("ip", "route", "show", "table", "all"),
    "routes6": ("ip", "-6", "route", "show", "table", "all"),
    "rules": ("ip", "rule"),
    "rules6": ("ip", "-6", "rule"),
    "nft": ("nft", "list", "ruleset"),
    "namespaces": ("ip", "netns", "list"),
}


def dump(host: Host) -> dict[str, list[str]]:
    """Return the kernel's state on a host, without what changes by itself."""
    return {name: _stable(host.output(*command)) for name, command in DUMPS.items()}


UNSTABLE = re.compile(
    r"^\d+: |@if\d+|link-netnsid \d+|\(id: \d+\)|\w+_timer +\S+|tentative"
    r"|valid_lft \S+ preferred_lft \S+|expires \d+sec"
)
"""What differs from one look to the next: numbers of links, timers, progress of DAD."""


def _stable(text: str) -> list[str]:
    return sorted(" ".join(UNSTABLE.sub("", line).split()) for line in text.splitlines())
