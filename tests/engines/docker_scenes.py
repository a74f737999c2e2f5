"""Shell. What the scenes with Docker share: two nodes with a dockerd each, and what stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from meshnet.model.addresses import RESOLVER
from meshnet.wire.local import NetworkInfo
from tests.lab import wait_until
from tests.lab.engines import IMAGE, Docker, missing
from tests.lab.mesh import Mesh, Node
from tests.scenes.mesh_scenes import everywhere, mesh_of

ABSENT = missing("/usr/sbin/dockerd", "/usr/bin/docker", "runc", "busybox")
MARKS = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(ABSENT), reason=ABSENT),
]

SERVE = "mkdir -p /w; echo this is $0 >/w/index.html; exec /bin/httpd -f -p 80 -h /w"
STAY = ("/bin/sleep", "1000")
COMPOSE_FILE = """
version: "3"
services:
  web:
    image: box:1
    command: ["/bin/sh", "-c", "mkdir /w; hostname >/w/index.html; exec /bin/httpd -f -h /w"]
    networks: {net: {aliases: [front]}}
    stop_grace_period: 1s
  client:
    image: box:1
    command: ["/bin/sleep", "1000"]
    stop_grace_period: 1s
    networks: [net]
networks:
  net:
    driver: meshnet
"""

WEB = ("--label", "mesh.service=web", "--label", "mesh.port=80")

Dockers = dict[str, Docker]


@contextmanager
def meshed_dockers(title: str) -> Iterator[tuple[Mesh, Dockers]]:
    """Play on two nodes, each with a dockerd that has a plain network `appnet`."""
    with mesh_of(2, title) as mesh:
        dockers = {name: Docker(node.host, str(RESOLVER)) for name, node in mesh.nodes.items()}
        for docker in dockers.values():
            create(docker, "appnet")
        yield mesh, dockers


@pytest.fixture(scope="module")
def meshed() -> Iterator[tuple[Mesh, Dockers]]:
    with meshed_dockers("two nodes with dockerd") as meshed:
        yield meshed


@pytest.fixture
def mesh(meshed: tuple[Mesh, Dockers]) -> Iterator[Mesh]:
    """The mesh of a module, on which a scene leaves nothing."""
    yield meshed[0]
    clean(meshed[1])
    nothing_remains(meshed[0])


@pytest.fixture
def dockers(meshed: tuple[Mesh, Dockers]) -> Dockers:
    return meshed[1]


def create(docker: Docker, name: str, *options: str) -> None:
    """Make a network the plain way, and wait until it is one of the mesh."""
    docker("network", "create", "-d", "meshnet", *options, name)
    wait_until(lambda: ipam(docker, name) == "meshnet", 10, lambda: f"{name} is on the mesh")


def ipam(docker: Docker, name: str) -> str:
    return docker("network", "inspect", "-f", "{{.IPAM.Driver}}", name, check=False).strip()


def address(docker: Docker, name: str, network: str = "appnet") -> str:
    """Return a container's address on a network, '' while it has none."""
    template = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
    return docker("inspect", "-f", template, name).strip()


def serve(docker: Docker, name: str, says: str, *options: str, network: str = "appnet") -> str:
    """Start an instance of service `web` whose page is `this is SAYS`; return its address."""
    command = ("/bin/sh", "-c", SERVE, says)
    docker.run(name, network, *command, options=[*WEB, "--stop-timeout", "1", *options])
    return address(docker, name, network)


def ask(docker: Docker, url: str, network: str = "appnet") -> str:
    """Ask from a new container."""
    return docker("run", "--rm", "--network", network, IMAGE, "/bin/wget", "-qO-", url)


def resolved(docker: Docker, name: str, network: str = "appnet") -> list[str]:
    """Return the addresses that a new container is told for a name."""
    words = ("run", "--rm", "--network", network, IMAGE, "/bin/nslookup", name)
    answer = docker(*words, check=False)
    lines = answer.partition("\n\n")[2].splitlines()
    return sorted(line.split()[-1] for line in lines if line.startswith("Address"))


def play_compose(nodes: Sequence[Node], dockers: Dockers, *program: str) -> None:
    """Bring a compose file up on all hosts at once by a program, ask across hosts, take it down."""
    for docker in dockers.values():
        docker.host.file("/run/compose.yml").write_text(COMPOSE_FILE)
    compose = (*program, "-p", "shop", "-f", "/run/compose.yml")
    _everywhere(dockers, *compose, "up", "-d", "--scale", "web=2")
    webs = [address(d, name, "shop_net") for d in dockers.values() for name in composed(d, "web")]
    assert len(set(webs)) == 4
    for name in ("web", "front"):
        full = f"{name}.shop-net.mesh"
        wait_until(lambda full=full: everywhere(nodes, full, webs), 10, f"{full} has four")
    for docker in dockers.values():
        client = composed(docker, "client")[0]
        assert docker("exec", client, "/bin/wget", "-qO-", "http://web.shop-net.mesh/")
    _everywhere(dockers, *compose, "down")
    assert [ipam(docker, "shop_net") for docker in dockers.values()] == ["", ""]
    wait_until(lambda: not known(nodes, "shop-net"), 5, "the network has ended with its last user")


def known(nodes: Iterable[Node], network: str) -> list[str]:
    """Return the names of the nodes that know a network of the mesh."""
    return [
        node.name
        for node in nodes
        if network in [each.name for each in node.get("/v1/networks", list[NetworkInfo])]
    ]


def composed(docker: Docker, service: str) -> list[str]:
    """Return the names of a service's containers, which differ between versions of compose."""
    chosen = ("--filter", f"label=com.docker.compose.service={service}")
    return docker("ps", *chosen, "--format", "{{.Names}}").split()


def _everywhere(dockers: Dockers, *words: str) -> None:
    """Run a program on all hosts at once."""
    with ThreadPoolExecutor() as pool:
        ran = pool.map(lambda d: d.host.transcript(*words, timeout=90), dockers.values())
        for status, said in ran:
            assert status == 0, said


def at_once(jobs: Iterable[tuple[Docker, tuple[str, ...]]], workers: int = 16) -> None:
    """Have dockers do things in parallel; each must succeed."""
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda job: job[0](*job[1]), jobs))


def clean(dockers: Dockers) -> None:
    """Remove what a scene that failed has left."""
    for docker in dockers.values():
        if left := docker("ps", "-aq").split():
            docker("rm", "-f", *left)


def remains(node: Node) -> list[str]:
    """Return what is there for Docker on a node: attachments and links."""
    attached = [item.owner for item in node.attachments() if item.owner.startswith("docker/")]
    links = node.host.output("ip", "-o", "link").splitlines()
    return attached + [line for line in links if ": m0a" in line or ": mesh1" in line]


def nothing_remains_on(node: Node, limit: float = 40) -> None:
    wait_until(lambda: remains(node) == [], limit, lambda: str(remains(node)))


def nothing_remains(mesh: Mesh) -> None:
    for node in mesh:
        nothing_remains_on(node)
