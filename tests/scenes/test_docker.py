"""Shell. Containers of two real dockerd on the mesh, by our network and IPAM driver."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from ipaddress import ip_address

import pytest

from tests.lab import wait_until
from tests.lab.engines import DRIVER_SOCKET, IMAGE, Docker, missing
from tests.lab.mesh import Mesh, Node, meshnet
from tests.scenes.mesh_scenes import everywhere, mesh_of

ABSENT = missing("/usr/sbin/dockerd", "/usr/bin/docker", "runc", "busybox")
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(ABSENT), reason=ABSENT),
]

ACTIVATE = "systemd-socket-activate"
GATEWAY = "10.50.0.1"
PREFIX = "10.50.0.0/24"
IPAM = ("--ipam-driver", "meshnet", "--subnet", PREFIX)
CREATE = ("network", "create", "-d", "meshnet", *IPAM, "appnet")
SERVE = "mkdir -p /w; echo this is $0 >/w/index.html; exec /bin/httpd -f -p 80 -h /w"
STAY = ("/bin/sleep", "1000")
WEB = ("--label", "mesh.service=web", "--label", "mesh.port=80")


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_of(2, "two nodes with dockerd") as mesh:
        meshnet(mesh.coordinator.host, "network", "create", "appnet", "--prefix", PREFIX)
        yield mesh


@pytest.fixture(scope="module")
def dockers(mesh: Mesh) -> dict[str, Docker]:
    dockers = {name: Docker(node.host, GATEWAY) for name, node in mesh.nodes.items()}
    for docker in dockers.values():
        docker(*CREATE)
    return dockers


def address(docker: Docker, name: str, network: str = "appnet") -> str:
    template = f"{{{{(index .NetworkSettings.Networks {network!r}).IPAddress}}}}"
    return docker("inspect", "-f", template.replace("'", '"'), name).strip()


def ask(docker: Docker, url: str) -> str:
    """Ask from a new container."""
    return docker("run", "--rm", "--network=appnet", IMAGE, "/bin/wget", "-qO-", url)


def remains(node: Node) -> list[str]:
    """Return what is there for Docker on a node: attachments and links."""
    attached = [item.owner for item in node.attachments() if item.owner.startswith("docker/")]
    links = node.host.output("ip", "-o", "link").splitlines()
    return attached + [line for line in links if ": m0a" in line or ": mesh1" in line]


def nothing_remains(mesh: Mesh) -> None:
    for node in mesh:
        wait_until(lambda node=node: remains(node) == [], 30, lambda node=node: str(remains(node)))


def test_one_service_on_two_hosts_by_name(mesh: Mesh, dockers: dict[str, Docker]) -> None:
    nodes = list(mesh)
    for name, docker in dockers.items():
        published = ("-p", "8080:80")
        docker.run(
            f"web-{name}", "appnet", "/bin/sh", "-c", SERVE, name, options=[*WEB, *published]
        )
    both = sorted(address(docker, f"web-{name}") for name, docker in dockers.items())
    assert len(set(both)) == 2
    wait_until(lambda: everywhere(nodes, "web.appnet.mesh", both), 5, "both instances are named")
    for docker in dockers.values():
        for name in dockers:
            assert ask(docker, f"http://web-{name}.appnet.mesh/") == f"this is {name}\n"
        asked = {ask(docker, "http://web.appnet.mesh/") for _ in range(8)}
        assert asked <= {f"this is {name}\n" for name in dockers}
    for name, node in mesh.nodes.items():
        published = node.host.output("curl", "-s", "-m", "3", "http://127.0.0.1:8080/")
        assert published == f"this is {name}\n"
        assert node.plan() == ()
    for name, docker in dockers.items():
        routes = docker("exec", f"web-{name}", "/bin/ip", "route")
        assert "default via 172." in routes
        assert "10.50.0.0/24 dev mesh0" in routes
        assert "mtu 1370" in docker("exec", f"web-{name}", "/bin/ip", "link", "show", "mesh0")
        docker("rm", "-f", f"web-{name}")
    wait_until(lambda: everywhere(nodes, "web.appnet.mesh", []), 5, "no instance is left")
    nothing_remains(mesh)


def test_containers_started_at_once_have_an_address_each(
    mesh: Mesh, dockers: dict[str, Docker]
) -> None:
    jobs = [(docker, f"p{number}") for docker in dockers.values() for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda job: job[0].run(job[1], "appnet", *STAY), jobs))
    given = [address(docker, name) for docker, name in jobs]
    assert len(set(given)) == len(jobs)
    last = given[-1]
    assert jobs[0][0].host.works("/usr/bin/docker", "exec", "p0", "/bin/ping", "-c1", "-W2", last)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda job: job[0]("rm", "-f", job[1]), jobs))
    nothing_remains(mesh)


def test_a_fixed_address_is_kept_over_restarts_and_given_once(
    mesh: Mesh, dockers: dict[str, Docker]
) -> None:
    here, there = dockers.values()
    here.run("fixed", "appnet", *STAY, options=["--ip", "10.50.0.200"])
    here("restart", "-t", "0", "fixed")
    assert address(here, "fixed") == "10.50.0.200"
    wait_until(
        lambda: everywhere(list(mesh), "fixed.appnet.mesh", ["10.50.0.200"]), 5, "it is named"
    )
    words = ("run", "--rm", "--network=appnet", "--ip=10.50.0.200", IMAGE, "/bin/true")
    assert not there.host.works("/usr/bin/docker", *words)
    assert not here.host.works("/usr/bin/docker", *words)
    here("rm", "-f", "fixed")
    nothing_remains(mesh)


def test_a_running_container_is_connected_and_disconnected(
    mesh: Mesh, dockers: dict[str, Docker]
) -> None:
    docker = dockers["n1"]
    docker.run("c1", "bridge", *STAY)
    for _ in range(3):
        docker("network", "connect", "appnet", "c1")
        connected = address(docker, "c1")
        assert ip_address(connected)
        wait_until(
            lambda one=connected: everywhere(list(mesh), "c1.appnet.mesh", [one]), 5, "c1 is named"
        )
        docker("network", "disconnect", "appnet", "c1")
        nothing_remains(mesh)
    docker("rm", "-f", "c1")


def test_without_an_agent_docker_is_told_at_once_and_containers_run_on(
    mesh: Mesh, dockers: dict[str, Docker]
) -> None:
    node, docker = mesh.nodes["n1"], dockers["n1"]
    docker.run("stays", "appnet", *STAY)
    dockers["n2"].run("other", "appnet", *STAY)
    ping = ("/bin/ping", "-c1", "-W2", address(dockers["n2"], "other"))
    wait_until(lambda: docker.host.works("/usr/bin/docker", "exec", "stays", *ping), 5, "ping")
    node.kill()
    begun = time.monotonic()
    words = ("run", "--rm", "--network=appnet", IMAGE, "/bin/true")
    failed = docker.host.run("/usr/bin/docker", *words, check=False, timeout=60)
    assert "no agent listens" in failed.stderr
    docker("exec", "stays", *ping)
    docker("rm", "-f", "stays")
    assert time.monotonic() - begun < 10
    node.start()
    nothing_remains_on(node)
    docker(*words)
    dockers["n2"]("rm", "-f", "other")
    nothing_remains(mesh)


def test_an_agent_killed_in_the_middle_leaves_nothing(
    mesh: Mesh, dockers: dict[str, Docker]
) -> None:
    node, docker = mesh.nodes["n2"], dockers["n2"]
    words = ("run", "--rm", "--name=brief", "--network=appnet", IMAGE, "/bin/true")
    for number in range(6):
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(docker.host.works, "/usr/bin/docker", *words, timeout=60)
            wait([run], 0.12 * number)
            node.kill()
            run.exception(60)
        node.start()
        nothing_remains_on(node)
        docker("rm", "-f", "brief", check=False)
    docker(*words)
    nothing_remains(mesh)


def nothing_remains_on(node: Node) -> None:
    wait_until(lambda: remains(node) == [], 40, lambda: str(remains(node)))


def test_a_plugin_that_starts_anew_knows_the_networks(
    mesh: Mesh, dockers: dict[str, Docker]
) -> None:
    docker = dockers["n1"]
    docker.run("stays", "appnet", *STAY)
    assert docker.plugin is not None
    docker.plugin.kill()
    docker.start_plugin()
    docker("run", "--rm", "--network=appnet", IMAGE, "/bin/true")
    docker("restart", "-t", "0", "stays")
    assert address(docker, "stays")
    docker("rm", "-f", "stays")
    nothing_remains(mesh)


@pytest.mark.skipif(bool(missing(ACTIVATE)), reason=missing(ACTIVATE))
def test_the_first_call_on_the_socket_starts_the_plugin(
    mesh: Mesh, dockers: dict[str, Docker]
) -> None:
    docker = dockers["n2"]
    assert docker.plugin is not None
    docker.plugin.kill()
    docker.start_plugin(ACTIVATE, "-l", DRIVER_SOCKET)
    docker("run", "--rm", "--network=appnet", IMAGE, "/bin/true")
    assert docker.plugin.running
    nothing_remains(mesh)


def test_dockerd_restarts_and_its_containers_have_their_names_again(
    mesh: Mesh, dockers: dict[str, Docker]
) -> None:
    docker = dockers["n1"]
    always = ("--restart", "always", "--stop-timeout", "1")
    docker.run("web-1", "appnet", "/bin/sh", "-c", SERVE, "one", options=[*WEB, *always])
    assert docker.daemon is not None
    docker.daemon.stop(60)
    docker.start()
    wait_until(lambda: address(docker, "web-1"), 20, "the container runs again")
    again = [address(docker, "web-1")]
    for name in ("web.appnet.mesh", "web-1.appnet.mesh"):
        wait_until(lambda name=name: everywhere(list(mesh), name, again), 10, f"{name} is back")
    assert ask(dockers["n2"], "http://web.appnet.mesh/") == "this is one\n"
    docker("rm", "-f", "web-1")
    nothing_remains(mesh)


def test_a_network_without_our_ipam_driver_is_refused_with_the_reason(
    dockers: dict[str, Docker],
) -> None:
    docker = dockers["n1"]
    words = ("network", "create", "-d", "meshnet")
    plain = docker.host.run("/usr/bin/docker", *words, "plain", check=False)
    assert "--ipam-driver meshnet" in plain.stderr
    unnamed = docker.host.run(
        "/usr/bin/docker", *words, "--ipam-driver", "meshnet", "plain", check=False
    )
    assert "--ipam-opt meshnet.network=NAME" in unnamed.stderr


def test_a_container_has_an_ipv6_address_when_its_network_has(
    mesh: Mesh, dockers: dict[str, Docker]
) -> None:
    for docker in dockers.values():
        options = ("--ipv6", "--ipam-driver=meshnet", "--ipam-opt=meshnet.network=six")
        docker("network", "create", "-d", "meshnet", *options, "six")
        docker.run("c6", "six", *STAY)
    here, there = dockers.values()
    template = "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}"
    far = there("inspect", "-f", template, "c6").strip()
    assert mesh.nodes["n1"].dig("c6.six.mesh", "AAAA").count(far) == 1
    reach = ("exec", "c6", "/bin/ping", "-6", "-c1", "-W2", far)
    wait_until(lambda: here.host.works("/usr/bin/docker", *reach), 5, "IPv6 from host to host")
    for docker in dockers.values():
        docker("rm", "-f", "c6")
        docker("network", "rm", "six")
    nothing_remains(mesh)


def test_a_network_is_made_on_the_mesh_when_it_is_not_there(
    mesh: Mesh, dockers: dict[str, Docker]
) -> None:
    for docker in dockers.values():
        options = ("--ipam-driver=meshnet", "--ipam-opt=meshnet.network=second", "--internal")
        docker("network", "create", "-d", "meshnet", *options, "second")
        docker.run("c1", "second", *STAY)
    here, there = dockers.values()
    here("exec", "c1", "/bin/ping", "-c1", "-W2", address(there, "c1", "second"))
    assert "default" not in here("exec", "c1", "/bin/ip", "route")
    for docker in dockers.values():
        docker("rm", "-f", "c1")
        docker("network", "rm", "second")
    nothing_remains(mesh)
