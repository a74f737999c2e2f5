"""Shell. Engines of Debian trixie: podman 5 by our netavark plugin, Docker 26 by our driver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from ipaddress import ip_network

import pytest

from meshnet.model.addresses import RESOLVER
from meshnet.wire.local import NetworkInfo
from tests.engines.docker_scenes import play_compose
from tests.lab import trixie, wait_until
from tests.lab.engines import IMAGE, Docker, Podman
from tests.lab.mesh import Mesh, Node
from tests.lab.trixie import Trixie
from tests.scenes.mesh_scenes import everywhere, mesh_of

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(500)]

DRIVER = "/usr/local/libexec/netavark/meshnet"
SERVE = "mkdir -p /w; echo this is $0 >/w/index.html; exec /bin/httpd -f -p 80 -h /w"
STAY = ("/bin/sleep", "1000")
IPAM = ("--ipam-driver=meshnet", "--ipam-opt=meshnet.network=appnet", "--subnet=10.50.0.0/24")
WEB = ("--label=mesh.service=web", "--label=mesh.port=80")


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    if trixie.missing():
        pytest.skip(trixie.missing())
    with mesh_of(2, "two nodes with engines of trixie") as mesh:
        yield mesh


@pytest.fixture(scope="module")
def roots(mesh: Mesh) -> dict[str, Trixie]:
    return {name: Trixie(node.host) for name, node in mesh.nodes.items()}


@pytest.fixture(scope="module")
def podmans(mesh: Mesh, roots: dict[str, Trixie]) -> dict[str, Podman]:
    podmans = {name: Podman(root) for name, root in roots.items()}
    for name, podman in podmans.items():
        mesh.nodes[name].meshnet("podman", "setup", "--plugin-dir", "/run/netavark")
        roots[name].bridge(DRIVER, "/run/netavark/meshnet")
        podman.start()
        podman("network", "create", "-d", "meshnet", "podnet")
    return podmans


@pytest.fixture(scope="module")
def dockers(mesh: Mesh, roots: dict[str, Trixie]) -> dict[str, Docker]:
    dockers = {
        name: Docker(root, str(RESOLVER), mesh.nodes[name].host) for name, root in roots.items()
    }
    for docker in dockers.values():
        docker("network", "create", "-d", "meshnet", *IPAM, "appnet")
    return dockers


@pytest.fixture(autouse=True)
def nothing_remains(
    mesh: Mesh, podmans: dict[str, Podman], dockers: dict[str, Docker]
) -> Iterator[None]:
    """After each scene, also one that failed, no container is left, nor what it had."""
    yield
    for podman in podmans.values():
        podman("rm", "--all", "--force", "--time=0")
    for docker in dockers.values():
        docker.host.shell("/usr/bin/docker ps --all --quiet | xargs -r /usr/bin/docker rm --force")
    nothing_is_attached(mesh)


def plugged(node: Node) -> dict[str, str]:
    """Return what netavark's plugin has attached on a node: names and IPv4 addresses."""
    items = [item for item in node.attachments() if item.owner.startswith("netavark/")]
    return {item.name: item.addresses[0] for item in items}


def network_of(node: Node, name: str) -> NetworkInfo:
    return next(n for n in node.get("/v1/networks", list[NetworkInfo]) if n.name == name)


def docker_address(docker: Docker, name: str) -> str:
    template = '{{(index .NetworkSettings.Networks "appnet").IPAddress}}'
    return docker("inspect", "-f", template, name).strip()


def nothing_is_attached(mesh: Mesh) -> None:
    for node in mesh:
        wait_until(
            lambda node=node: not [item for item in node.attachments() if item.owner], 30, node.log
        )
        wait_until(lambda node=node: node.plan() == (), 5, lambda node=node: str(node.plan()))


def test_podmans_network_is_one_of_the_mesh(mesh: Mesh, podmans: dict[str, Podman]) -> None:
    nodes = list(mesh)
    for name, podman in podmans.items():
        podman.run(
            f"web-{name}", "podnet", "/bin/sh", "-c", SERVE, name, options=["--network-alias=web"]
        )
    both = [plugged(node)[f"web-{node.name}"] for node in nodes]
    wait_until(lambda: everywhere(nodes, "web.podnet.mesh", both), 5, "both are named")
    for podman in podmans.values():
        pages = set()
        for name in podmans:
            words = ("--network=podnet", f"localhost/{IMAGE}", "/bin/wget", "-qO-")
            page = podman("run", "--rm", *words, f"http://web-{name}/")
            assert page == f"this is {name}\n"
            pages.add(podman("run", "--rm", *words, "http://web.podnet.mesh/"))
        assert pages <= {"this is n1\n", "this is n2\n"}
    inspected = json.loads(podmans["n1"]("inspect", "web-n1"))[0]["NetworkSettings"]["Networks"]
    assert inspected["podnet"]["IPAddress"] == both[0]
    shown = json.loads(podmans["n1"]("network", "inspect", "podnet"))[0]
    assert shown["ipv6_enabled"]
    for name, podman in podmans.items():
        podman("rm", "-f", "-t", "0", f"web-{name}")
    wait_until(lambda: everywhere(nodes, "web.podnet.mesh", []), 3, "no instance is left")


def test_a_fixed_address_the_internet_and_a_label_beside_a_network_of_podmans(
    mesh: Mesh, podmans: dict[str, Podman]
) -> None:
    podman, node = podmans["n1"], mesh.nodes["n1"]
    fixed = str(ip_network(network_of(node, "podnet").prefixes[0])[5000])
    networks = (f"--network=podnet:ip={fixed}", "--network=podman", "-p", "8080:80")
    words = ("run", "-d", "--name", "both", *networks, *WEB, f"localhost/{IMAGE}")
    podman(*words, "/bin/sh", "-c", SERVE, "both")
    assert plugged(node) == {"both": fixed}
    wait_until(lambda: everywhere(list(mesh), "web.podnet.mesh", [fixed]), 5, "by its label")
    assert node.host.output("curl", "-s", "-m", "3", "http://127.0.0.1:8080/") == "this is both\n"
    assert "default via 10.88.0.1" in podman("exec", "both", "/bin/ip", "route")
    assert len([item for item in node.attachments() if item.owner]) == 1
    taken = podman.host.run(
        *podman.words("run", "--rm", f"--network=podnet:ip={fixed}", f"localhost/{IMAGE}", "true"),
        env=podman.environment,
        check=False,
    )
    assert f"{fixed} is in use" in taken.stderr
    podman("restart", "-t", "0", "both")
    assert plugged(node) == {"both": fixed}


def test_an_agent_killed_in_the_middle_of_a_setup_leaves_nothing(
    mesh: Mesh, podmans: dict[str, Podman]
) -> None:
    node, podman = mesh.nodes["n2"], podmans["n2"]
    words = podman.words("run", "--rm", "--network=podnet", f"localhost/{IMAGE}", "/bin/true")

    def brief() -> str:
        return podman.host.run(*words, env=podman.environment, check=False, timeout=60).stderr

    for number in range(4):
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(brief)
            wait([run], 0.15 * number)
            node.kill()
            said = run.result(60)
        assert number or "no agent answers" in said or "broke off" in said
        node.start()
        nothing_is_attached(mesh)
    assert "error" not in brief().lower()


def test_docker_by_our_driver(mesh: Mesh, dockers: dict[str, Docker]) -> None:
    nodes = list(mesh)
    for name, docker in dockers.items():
        options = [*WEB, "-p", "8081:80"]
        docker.run(f"d-{name}", "appnet", "/bin/sh", "-c", SERVE, name, options=options)
    both = [docker_address(docker, f"d-{name}") for name, docker in dockers.items()]
    assert len(set(both)) == 2
    wait_until(lambda: everywhere(nodes, "web.appnet.mesh", both), 5, "both are named")
    for name, docker in dockers.items():
        for other in dockers:
            page = docker("exec", f"d-{name}", "/bin/wget", "-qO-", f"http://d-{other}.appnet.mesh")
            assert page == f"this is {other}\n"
        published = mesh.nodes[name].host.output("curl", "-s", "-m3", "http://127.0.0.1:8081/")
        assert published == f"this is {name}\n"
        docker("exec", f"d-{name}", "/bin/ping", "-c1", "-W2", mesh.coordinator.host.address4)
        docker("restart", "-t", "0", f"d-{name}")
    again = [docker_address(docker, f"d-{name}") for name, docker in dockers.items()]
    wait_until(lambda: everywhere(nodes, "web.appnet.mesh", again), 5, "both are back")
    for name, docker in dockers.items():
        docker("rm", "-f", f"d-{name}")
    wait_until(lambda: everywhere(nodes, "web.appnet.mesh", []), 3, "no instance is left")


def test_a_compose_file_by_compose_v2(mesh: Mesh, dockers: dict[str, Docker]) -> None:
    play_compose(list(mesh), dockers, "/usr/bin/docker", "compose")


def test_docker_restarts_with_containers_on_our_network(
    mesh: Mesh, dockers: dict[str, Docker]
) -> None:
    docker = dockers["n1"]
    options = [*WEB, "--restart=always", "--stop-timeout=1"]
    docker.run("always", "appnet", *STAY, options=options)
    assert docker.daemon is not None
    docker.daemon.stop(60)
    docker.start()
    wait_until(lambda: docker_address(docker, "always"), 20, "the container runs again")
    again = [docker_address(docker, "always")]
    wait_until(lambda: everywhere(list(mesh), "always.appnet.mesh", again), 10, "named again")


@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_containers_of_ordinary_networks_are_found_by_their_labels(
    mesh: Mesh, dockers: dict[str, Docker], podmans: dict[str, Podman], kind: str
) -> None:
    nodes, node = list(mesh), mesh.nodes["n1"]
    engine = dockers["n1"] if kind == "docker" else podmans["n1"]
    network = "bridge" if kind == "docker" else "podman"
    check = ("--health-cmd=test ! -e /ill", "--health-interval=1s", "--health-retries=1")
    engine.run("found", network, *STAY, options=[*WEB, *check])

    def address() -> list[str]:
        """podman's checks need systemd's timers, so here they are run by hand."""
        if kind == "podman":
            for name in ("found", "renamed"):
                engine("healthcheck", "run", name, check=False)
        items = [item for item in node.attachments() if item.owner.startswith("engine:")]
        return [item.addresses[0] for item in items]

    wait_until(lambda: address() and everywhere(nodes, "web.mesh", address()), 10, node.log)
    engine("exec", "found", "/bin/touch", "/ill")
    wait_until(lambda: address() and everywhere(nodes, "web.mesh", []), 10, "it is ill")
    engine("exec", "found", "/bin/rm", "/ill")
    wait_until(lambda: everywhere(nodes, "web.mesh", address()), 10, "it is well")
    engine("rename", "found", "renamed")
    wait_until(lambda: everywhere(nodes, "renamed.mesh", address()), 5, "it has another name")
    engine("restart", "-t", "0", "renamed")
    wait_until(lambda: address() and everywhere(nodes, "web.mesh", address()), 10, node.log)
    engine("stop", "-t", "0", "renamed")
    wait_until(lambda: everywhere(nodes, "web.mesh", []), 3, "it has stopped")
