"""Shell. Containers of ordinary networks, found by their labels: real Docker, real podman."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from meshnet.wire.local import AttachmentInfo
from tests.lab import wait_until
from tests.lab.engines import IMAGE, Dockerd, Podman, missing
from tests.lab.mesh import Mesh, Node
from tests.scenes.mesh_scenes import everywhere, mesh_of

ABSENT = missing("/usr/sbin/dockerd", "/usr/bin/docker", "podman", "runc", "busybox")
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(ABSENT), reason=ABSENT),
]

SERVE = "mkdir -p /w; echo this is $0 >/w/index.html; exec /bin/httpd -f -p 80 -h /w"
STAY = ("/bin/sleep", "1000")
WEB = ("--label=mesh.service=web", "--label=mesh.port=80")
TROUBLED = "touch /ill; trap 'rm /ill' USR1; trap 'touch /ill' USR2; while :; do sleep 0.1; done"
CHECKED = ("--health-cmd", "test ! -e /ill", "--health-interval=1s", "--health-retries=1")

Engine = Dockerd | Podman


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_of(2, "two nodes, one with Docker and one with podman") as mesh:
        yield mesh


@pytest.fixture(scope="module")
def docker(mesh: Mesh) -> Dockerd:
    return Dockerd(mesh.nodes["n1"].host)


@pytest.fixture(scope="module")
def podman(mesh: Mesh) -> Podman:
    podman = Podman(mesh.nodes["n2"].host)
    podman.start()
    return podman


@pytest.fixture(scope="module")
def engines(docker: Dockerd, podman: Podman) -> dict[str, Engine]:
    return {"n1": docker, "n2": podman}


@pytest.fixture(autouse=True)
def nothing_remains(mesh: Mesh) -> Iterator[None]:
    """After each scene all containers are gone, and so is what was attached for them."""
    yield
    for node in mesh:
        wait_until(lambda node=node: found(node) == {}, 10, lambda node=node: str(found(node)))
        wait_until(lambda node=node: node.plan() == (), 5, lambda node=node: str(node.plan()))


def found(node: Node) -> dict[str, AttachmentInfo]:
    """Return what is attached on a node for a container that was found, by name."""
    return {item.name: item for item in node.attachments() if item.owner.startswith("engine:")}


def address_of(node: Node, name: str) -> str:
    """Return a found container's address; it must be there soon."""
    wait_until(lambda: name in found(node), 10, lambda: f"{name} is attached\n{node.log()}")
    return next(text for text in found(node)[name].addresses if ":" not in text)


def remove(engine: Engine, *names: str) -> None:
    engine("rm", "-f", *(["-t", "0"] if isinstance(engine, Podman) else []), *names)


def run(engine: Engine, name: str, *command: str, options: tuple[str, ...] = ()) -> str:
    network = "podman" if isinstance(engine, Podman) else "bridge"
    return engine.run(name, network, *command, options=options)


def test_one_service_of_docker_and_podman_is_found_by_its_label(
    mesh: Mesh, engines: dict[str, Engine]
) -> None:
    nodes = list(mesh)
    for name, engine in engines.items():
        run(engine, f"web-{name}", "/bin/sh", "-c", SERVE, name, options=WEB)
    both = [address_of(mesh.nodes[name], f"web-{name}") for name in engines]
    wait_until(lambda: everywhere(nodes, "web.mesh", both), 5, "both instances are named")
    assert nodes[0].dig("web-n2.mesh") == [both[1]]
    assert "80" in " ".join(nodes[0].dig("_http._tcp.web.mesh", "SRV"))
    for name, engine in engines.items():
        for other, address in zip(engines, both, strict=True):
            page = engine("exec", f"web-{name}", "/bin/wget", "-qO-", f"http://{address}/")
            assert page == f"this is {other}\n"
        routes = engine("exec", f"web-{name}", "/bin/ip", "route").splitlines()
        assert next(line for line in routes if "dev mesh0" in line).startswith("10.214.0.0/16")
        assert "dev eth0" in next(line for line in routes if line.startswith("default"))
        own = found(mesh.nodes[name])[f"web-{name}"].addresses[1]
        engine("exec", f"web-{name}", "/bin/ping", "-6", "-c1", "-W2", own)
        outside = mesh.coordinator.host.address4
        engine("exec", f"web-{name}", "/bin/ping", "-c1", "-W2", outside)
    for name, engine in engines.items():
        remove(engine, f"web-{name}")
    wait_until(lambda: everywhere(nodes, "web.mesh", []), 2, "no instance is left")


def test_a_container_without_a_label_is_left_alone(mesh: Mesh, engines: dict[str, Engine]) -> None:
    for name, engine in engines.items():
        run(engine, "plain", *STAY, options=("--label=other=web",))
        run(engine, "marked", *STAY, options=("--label=mesh.network=default",))
        assert address_of(mesh.nodes[name], "marked")
        assert set(found(mesh.nodes[name])) == {"marked"}
        assert "mesh0" not in engine("exec", "plain", "/bin/ip", "link")
        remove(engine, "plain", "marked")


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_health_decides_who_is_answered(mesh: Mesh, engines: dict[str, Engine], name: str) -> None:
    nodes, engine = list(mesh), engines[name]

    def checked() -> bool:
        """podman's checks need systemd's timers, so here they are run by hand."""
        if isinstance(engine, Podman):
            engine("healthcheck", "run", "ill", check=False)
        return True

    run(engine, "ill", "/bin/sh", "-c", TROUBLED, options=(*WEB, *CHECKED))
    address = address_of(mesh.nodes[name], "ill")
    assert everywhere(nodes, "web.mesh", [])
    assert everywhere(nodes, "ill.mesh", [address])
    engine("kill", "-s", "USR1", "ill")
    wait_until(lambda: checked() and everywhere(nodes, "web.mesh", [address]), 10, "it is well")
    engine("kill", "-s", "USR2", "ill")
    wait_until(lambda: checked() and everywhere(nodes, "web.mesh", []), 10, "it is ill again")
    engine("kill", "-s", "USR1", "ill")
    wait_until(lambda: checked() and everywhere(nodes, "web.mesh", [address]), 10, "well again")
    engine("pause", "ill")
    wait_until(lambda: everywhere(nodes, "web.mesh", []), 3, "a frozen one does not answer")
    engine("unpause", "ill")
    wait_until(lambda: checked() and everywhere(nodes, "web.mesh", [address]), 5, "thawed")
    remove(engine, "ill")


def test_a_restart_a_rename_and_the_end_are_followed(
    mesh: Mesh, engines: dict[str, Engine]
) -> None:
    nodes = list(mesh)
    for name, engine in engines.items():
        node = mesh.nodes[name]
        run(engine, "one", "/bin/sh", "-c", SERVE, name, options=WEB)
        address = address_of(node, "one")
        engine("rename", "one", "two")
        wait_until(lambda one=address: everywhere(nodes, "two.mesh", [one]), 5, "its new name")
        assert everywhere(nodes, "one.mesh", [])
        assert everywhere(nodes, "web.mesh", [address])
        engine("restart", "-t", "0", "two")
        wait_until(lambda: len(nodes[0].dig("web.mesh")) == 1, 5, "it is back")
        again = address_of(node, "two")
        wait_until(lambda one=again: everywhere(nodes, "web.mesh", [one]), 5, "named again")
        page = engine("exec", "two", "/bin/wget", "-qO-", f"http://{again}/")
        assert page == f"this is {name}\n"
        engine("stop", "-t", "0", "two")
        wait_until(lambda: everywhere(nodes, "web.mesh", []), 2, "a stopped one has no name")
        assert found(node) == {}
        engine("start", "two")
        assert address_of(node, "two")
        remove(engine, "two")


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_an_agent_that_starts_anew_adopts_what_runs(
    mesh: Mesh, engines: dict[str, Engine], name: str
) -> None:
    node, engine = mesh.nodes[name], engines[name]
    run(engine, "stays", *STAY, options=WEB)
    run(engine, "goes", *STAY, options=WEB)
    for container in ("stays", "goes"):
        address_of(node, container)
    before = found(node)["stays"]
    node.kill()
    remove(engine, "goes")
    run(engine, "comes", *STAY, options=WEB)
    node.start()
    address_of(node, "comes")
    wait_until(lambda: set(found(node)) == {"stays", "comes"}, 5, lambda: str(found(node)))
    assert found(node)["stays"] == before
    remove(engine, "stays", "comes")


def test_an_engine_that_hangs_or_restarts_does_no_harm(mesh: Mesh, docker: Dockerd) -> None:
    node = mesh.nodes["n1"]
    run(docker, "always", *STAY, options=(*WEB, "--restart=always", "--stop-timeout=1"))
    address = address_of(node, "always")
    assert docker.daemon is not None
    docker.daemon.send(signal.SIGSTOP)
    assert node.status().counts.reachable == 1
    assert everywhere(list(mesh), "web.mesh", [address])
    docker.daemon.send(signal.SIGCONT)
    docker.daemon.stop(60)
    wait_until(lambda: everywhere(list(mesh), "web.mesh", []), 5, "its containers have ended")
    docker.start()
    again = address_of(node, "always")
    wait_until(lambda: everywhere(list(mesh), "web.mesh", [again]), 5, "and are back")
    remove(docker, "always")


def test_labels_that_cannot_be_followed_are_said_once_and_change_nothing(
    mesh: Mesh, docker: Dockerd
) -> None:
    node = mesh.nodes["n1"]
    run(docker, "wrong", *STAY, options=("--label=mesh.service=No Name!",))
    docker.run("hosted", "host", *STAY, options=WEB)
    run(docker, "early", *STAY, options=(*WEB, "--label=mesh.network=later"))
    for words in ("service name 'No Name!' is not a DNS label", "host's own", "no network later"):
        wait_until(lambda words=words: node.log().count(words) == 1, 5, node.log)
    assert found(node) == {}
    mesh.nodes["n2"].meshnet("network", "create", "later")
    address = address_of(node, "early")
    assert node.dig("web.later.mesh") == [address]
    remove(docker, "wrong", "hosted", "early")


def test_containers_started_at_once_are_all_found(mesh: Mesh, docker: Dockerd) -> None:
    node = mesh.nodes["n1"]
    script = (
        "for n in $(seq 12); do /usr/bin/docker run -d --name many-$n --label mesh.service=many"
    )
    docker.host.shell(f"{script} {IMAGE} {' '.join(STAY)} & done; wait", timeout=60)
    wait_until(lambda: len(node.dig("many.mesh")) == 12, 10, lambda: str(found(node)))
    remove(docker, *(f"many-{number + 1}" for number in range(12)))
    wait_until(lambda: node.dig("many.mesh") == [], 3, lambda: str(found(node)))


def test_podman_joins_a_namespace_that_is_attached_already(mesh: Mesh, podman: Podman) -> None:
    node = mesh.nodes["n2"]
    node.host.shell("ip netns add box; ip -n box link set lo up")
    node.meshnet("attach", "--netns", "box", "--name", "box", "--port", "80", "--service", "boxed")
    names = ("--dns", node.gateways()[0], "--dns-search", "mesh")
    podman.run("joins", "ns:/run/netns/box", "/bin/sh", "-c", SERVE, "it", options=(*names, *WEB))
    page = podman("exec", "joins", "/bin/wget", "-qO-", "http://boxed/")
    assert page == "this is it\n"
    wait_until(lambda: everywhere(list(mesh), "web.mesh", node.dig("box.mesh")), 5, node.log)
    assert found(node) == {}
    remove(podman, "joins")
    node.meshnet("detach", "box")
    node.host.run("ip", "netns", "del", "box")
