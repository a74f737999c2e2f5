"""Shell. Containers of two real dockerd on the mesh, by our network and IPAM driver."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from ipaddress import ip_address, ip_network

import pytest

from tests.engines.docker_scenes import (
    MARKS,
    STAY,
    WEB,
    Dockers,
    address,
    ask,
    at_once,
    create,
    dockers,
    ipam,
    known,
    mesh,
    meshed,
    nothing_remains,
    play_compose,
    resolved,
    serve,
)
from tests.lab import wait_until
from tests.lab.engines import IMAGE, Docker, missing
from tests.lab.mesh import Mesh, meshnet
from tests.scenes.mesh_scenes import everywhere

__all__ = ["dockers", "mesh", "meshed"]

pytestmark = MARKS

COMPOSE = "/usr/bin/docker-compose"
PREFIX = "10.50.0.0/24"
ASKING = """
while :; do t=$(date +%s); echo "$t $(timeout 2 wget -qO- http://web.mesh/)" >>/log; done
"""
TROUBLED = "touch /ill; trap 'rm /ill' USR1; trap 'touch /ill' USR2; while :; do sleep 0.1; done"
CHECKED = ("--health-cmd", "test ! -e /ill", "--health-interval=1s", "--health-retries=1")


def test_one_service_on_two_hosts_by_name(mesh: Mesh, dockers: Dockers) -> None:
    nodes = list(mesh)
    both = [serve(docker, f"web-{name}", name, "-p", "8080:80") for name, docker in dockers.items()]
    assert len(set(both)) == 2
    wait_until(lambda: everywhere(nodes, "web.appnet.mesh", both), 5, "both instances are named")
    for docker in dockers.values():
        for name in dockers:
            assert ask(docker, f"http://web-{name}.mesh/") == f"this is {name}\n"
        asked = {ask(docker, "http://web.mesh/") for _ in range(6)}
        assert asked <= {f"this is {name}\n" for name in dockers}
        assert resolved(docker, "web.mesh") == sorted(both)
    for name, node in mesh.nodes.items():
        published = node.host.output("curl", "-s", "-m", "3", "http://127.0.0.1:8080/")
        assert published == f"this is {name}\n"
        assert node.plan() == ()
    for name, docker in dockers.items():
        routes = docker("exec", f"web-{name}", "/bin/ip", "route")
        assert "default via 172." in routes
        assert "dev mesh0 scope link  src " in routes
        assert "mtu 1370" in docker("exec", f"web-{name}", "/bin/ip", "link", "show", "mesh0")
        outside = mesh.coordinator.host.address4
        docker("exec", f"web-{name}", "/bin/ping", "-c1", "-W2", outside)
        docker("rm", "-f", f"web-{name}")
    wait_until(lambda: everywhere(nodes, "web.appnet.mesh", []), 5, "no instance is left")


def test_ten_instances_share_the_requests_and_those_removed_get_none(
    mesh: Mesh, dockers: Dockers
) -> None:
    nodes, (here, there) = list(mesh), dockers.values()
    placed = {f"s{number}": (here, there)[number % 2] for number in range(10)}
    serving = ("/bin/sh", "-c", "mkdir /w; hostname >/w/index.html; exec /bin/httpd -f -h /w")
    start = ("run", "-d", "--network=appnet", "--stop-timeout=1", *WEB)
    at_once(
        (d, (*start, f"--name={name}", f"--hostname={name}", IMAGE, *serving))
        for name, d in placed.items()
    )
    given = {name: address(docker, name) for name, docker in placed.items()}
    assert len(set(given.values())) == 10
    wait_until(lambda: everywhere(nodes, "web.appnet.mesh", list(given.values())), 5, "all named")
    here.run("client", "appnet", "/bin/sh", "-c", ASKING)
    wait_until(lambda: len(log_of(here)) > 100, 40, lambda: f"requests: {len(log_of(here))}")
    spread = Counter(name for _, name in log_of(here) if name)
    assert set(spread) == set(given)
    assert max(spread.values()) < len(log_of(here)) / 3

    stay, gone = sorted(given)[:5], sorted(given)[5:]
    at_once((placed[name], ("rm", "-f", name)) for name in gone)
    left = [given[name] for name in stay]
    wait_until(lambda: everywhere(nodes, "web.appnet.mesh", left), 1, "answers follow")
    now = int(here("exec", "client", "/bin/date", "+%s"))
    wait_until(lambda: late(here, now + 2) >= 50, 40, lambda: f"{late(here, now + 2)} requests")
    assert {name for at, name in log_of(here) if at >= now + 2} == set(stay)
    here("rm", "-f", "client")
    at_once((placed[name], ("rm", "-f", name)) for name in stay)


def log_of(docker: Docker) -> list[tuple[int, str]]:
    """Return the client's whole requests: when each began, and who answered, '' for nobody."""
    lines = docker("exec", "client", "/bin/cat", "/log", check=False).splitlines()
    pairs = (line.partition(" ") for line in lines)
    return [(int(at), name) for at, _, name in pairs if at]


def late(docker: Docker, since: int) -> int:
    return sum(at >= since for at, _ in log_of(docker))


def test_a_health_check_decides_who_is_answered(mesh: Mesh, dockers: Dockers) -> None:
    nodes, docker = list(mesh), dockers["n1"]
    docker.run("ill", "appnet", "/bin/sh", "-c", TROUBLED, options=[*WEB, *CHECKED])
    own = [address(docker, "ill")]
    wait_until(lambda: everywhere(nodes, "ill.appnet.mesh", own), 5, "it has its name")
    wait_until(lambda: everywhere(nodes, "web.appnet.mesh", []), 5, "it is not well")
    docker("kill", "-s", "USR1", "ill")
    wait_until(lambda: everywhere(nodes, "web.appnet.mesh", own), 10, "it is well")
    docker("kill", "-s", "USR2", "ill")
    wait_until(lambda: everywhere(nodes, "web.appnet.mesh", []), 10, "it is ill again")
    docker("rm", "-f", "ill")


def test_aliases_a_rename_and_compose_labels_are_names(mesh: Mesh, dockers: Dockers) -> None:
    nodes, docker = list(mesh), dockers["n1"]
    create(docker, "second")
    labels = ("--label", "com.docker.compose.service=front_end")
    own = serve(docker, "shop_web_1", "x", "--network-alias", "db", *labels)
    for name in ("shop-web-1", "web", "front-end", "db"):
        full = f"{name}.appnet.mesh"
        wait_until(lambda full=full: everywhere(nodes, full, [own]), 5, f"{full} is a name")
    docker("network", "connect", "--alias", "store", "second", "shop_web_1")
    other = [address(docker, "shop_web_1", "second")]
    for name in ("store", "web", "shop-web-1"):
        full = f"{name}.second.mesh"
        wait_until(lambda full=full: everywhere(nodes, full, other), 5, f"{full} is a name")
    assert nodes[0].dig("store.appnet.mesh") == []
    assert {item.network for item in nodes[0].attachments()} == {"appnet", "second", "default"}
    docker("rename", "shop_web_1", "kiosk")
    wait_until(lambda: everywhere(nodes, "kiosk.appnet.mesh", [own]), 5, "its new name is known")
    docker("rm", "-f", "kiosk")
    wait_until(lambda: everywhere(nodes, "db.appnet.mesh", []), 5, "and none is left")
    docker("network", "rm", "second")


def test_a_name_that_cannot_be_one_of_the_mesh_keeps_no_container_from_starting(
    mesh: Mesh, dockers: Dockers
) -> None:
    nodes, docker = list(mesh), dockers["n1"]
    names = ("--network-alias", "mesh", "--network-alias", "appnet", "--network-alias", "shop")
    composed = ("--label", "com.docker.compose.service=n2")
    docker.run("localhost", "appnet", *STAY, options=[*names, *composed])
    own = [address(docker, "localhost")]
    for name in ("c-localhost", "shop"):
        full = f"{name}.appnet.mesh"
        wait_until(lambda full=full: everywhere(nodes, full, own), 5, f"{full} is a name")
    assert nodes[0].dig("n2.mesh") == [mesh.nodes["n2"].address4]
    docker("rm", "-f", "localhost")


def test_a_fixed_address_is_kept_over_restarts_and_given_once(mesh: Mesh, dockers: Dockers) -> None:
    here, there = dockers.values()
    for docker in (here, there):
        create(docker, "fixnet", "--subnet", PREFIX)
    here.run("fixed", "fixnet", *STAY, options=["--ip", "10.50.0.200"])
    here("restart", "-t", "0", "fixed")
    assert address(here, "fixed", "fixnet") == "10.50.0.200"
    own = ["10.50.0.200"]
    wait_until(lambda: everywhere(list(mesh), "fixed.fixnet.mesh", own), 5, "it is named")
    words = ("run", "--rm", "--network=fixnet", "--ip=10.50.0.200", IMAGE, "/bin/true")
    assert not there.host.works("/usr/bin/docker", *words)
    assert not here.host.works("/usr/bin/docker", *words)
    here("rm", "-f", "fixed")
    for docker in (here, there):
        docker("network", "rm", "fixnet")


def test_a_network_ends_with_its_last_user_and_is_there_again_for_who_has_it(
    mesh: Mesh, dockers: Dockers
) -> None:
    nodes, (here, there) = list(mesh), dockers.values()
    for docker in (here, there):
        create(docker, "brief")
        wait_until(lambda docker=docker: "meshnet-brief" in spaces(docker), 5, "it is built")
    here.run("c1", "brief", *STAY)
    first = address(here, "c1", "brief")
    here("rm", "-f", "c1")
    here("network", "rm", "brief")
    wait_until(lambda: not known(nodes, "brief"), 5, "nobody has a lease of it")
    for docker in (here, there):
        wait_until(lambda docker=docker: "meshnet-brief" not in spaces(docker), 5, "it is gone")
    there.run("c2", "brief", *STAY)
    own = [address(there, "c2", "brief")]
    assert ip_network(f"{first}/20", strict=False) == ip_network(f"{own[0]}/20", strict=False)
    wait_until(lambda: everywhere(nodes, "c2.brief.mesh", own), 5, "it is named")
    there("rm", "-f", "c2")
    there("network", "rm", "brief")
    wait_until(lambda: not known(nodes, "brief"), 5, "and ends again")


def spaces(docker: Docker) -> str:
    """Return the names of the networks' namespaces on a host."""
    return docker.host.output("ip", "netns", "list")


def test_a_running_container_is_connected_and_disconnected(mesh: Mesh, dockers: Dockers) -> None:
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


def test_every_container_finds_names_also_on_a_bridge_and_without_a_way_out(
    mesh: Mesh, dockers: Dockers
) -> None:
    here, there = dockers.values()
    own = [serve(there, "web-1", "x")]
    for docker in (here, there):
        create(docker, "inner", "--internal")
    docker.run("c1", "inner", *STAY)
    inside = [address(docker, "c1", "inner")]
    wait_until(lambda: everywhere(list(mesh), "c1.inner.mesh", inside), 5, "c1 is named")
    assert resolved(here, "web.mesh", "bridge") == own
    assert resolved(here, "web.appnet.mesh", "inner") == own
    assert resolved(here, "c1.mesh", "inner") == inside
    here.run("c2", "inner", *STAY)
    here("exec", "c2", "/bin/ping", "-c1", "-W2", inside[0])
    assert "default" not in here("exec", "c2", "/bin/ip", "route")
    here("network", "connect", "appnet", "c2")
    assert here("exec", "c2", "/bin/ip", "route").count("169.254.214.53") == 1
    here("rm", "-f", "c2")
    there("rm", "-f", "c1", "web-1")
    for docker in (here, there):
        docker("network", "rm", "inner")


def test_the_one_setting_is_made_and_undone(mesh: Mesh, dockers: Dockers) -> None:
    docker, own = dockers["n1"], [serve(dockers["n2"], "web-1", "x")]
    before = docker.host.file("/run/daemon.json").read_text()
    setup = ("docker", "setup", "--config", "/run/daemon.json")
    for options, found in (((*setup, "--undo"), []), (setup, own)):
        meshnet(docker.host, *options)
        assert docker.daemon is not None
        docker.daemon.stop(60)
        docker.start()
        assert resolved(docker, "web.mesh", "bridge") == found
    after = docker.host.file("/run/daemon.json").read_text()
    assert json.loads(after)["dns"][0] == json.loads(before)["dns"][0]
    dockers["n2"]("rm", "-f", "web-1")


def test_a_container_has_an_ipv6_address_when_its_network_has(mesh: Mesh, dockers: Dockers) -> None:
    for docker in dockers.values():
        options = ("--ipv6", "--ipam-driver=meshnet", "--ipam-opt=meshnet.network=six")
        docker("network", "create", "-d", "meshnet", *options, "six")
        docker.run("c6", "six", *STAY)
    here, there = dockers.values()
    template = "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}"
    far = there("inspect", "-f", template, "c6").strip()
    wait_until(lambda: mesh.nodes["n1"].dig("c6.six.mesh", "AAAA").count(far) == 1, 5, "named")
    reach = ("exec", "c6", "/bin/ping", "-6", "-c1", "-W2", far)
    wait_until(lambda: here.host.works("/usr/bin/docker", *reach), 5, "IPv6 from host to host")
    for docker in dockers.values():
        docker("rm", "-f", "c6")
        docker("network", "rm", "six")


def test_a_plain_network_that_cannot_be_is_refused_with_the_reason(
    mesh: Mesh, dockers: Dockers
) -> None:
    docker = dockers["n1"]

    def says(words: tuple[str, ...]) -> str:
        return docker.host.run("/usr/bin/docker", *words, check=False).stderr

    meshnet(mesh.coordinator.host, "network", "create", "taken", "--prefix", "10.60.0.0/24")
    ranged = ("--subnet=10.61.0.0/24", "--ip-range=10.61.0.0/25", "ranged")
    for options, reason in (
        (("--subnet=10.61.0.0/24", "taken"), "not 10.61.0.0/24. Remove the network"),
        (ranged, "--ip-range"),
    ):
        docker("network", "create", "-d", "meshnet", *options)
        words = ("run", "--rm", "--network", options[-1], IMAGE, "/bin/true")
        said = partial(says, words)
        wait_until(lambda reason=reason, said=said: reason in said(), 5, said)
        assert ipam(docker, options[-1]) == "default"
        docker("network", "rm", options[-1])
    docker("network", "create", "-d", "meshnet", "shop-net")
    docker("network", "create", "-d", "meshnet", "shop_net")
    words = ("run", "--rm", "--network", "shop_net", IMAGE, "/bin/true")
    reason = "Docker's networks shop-net and shop_net would both be network shop-net of the mesh"
    wait_until(lambda: reason in says(words), 5, lambda: says(words))
    docker("network", "rm", "shop-net")
    wait_until(lambda: ipam(docker, "shop_net") == "meshnet", 20, "the other's turn has come")
    docker("network", "create", "-d", "meshnet", "-o", "meshnet.network=shop-net", "same")
    wait_until(lambda: ipam(docker, "same") == "meshnet", 5, "it is asked for by name")
    docker("network", "rm", "shop_net", "same")
    unnamed = ("network", "create", "-d", "meshnet", "--ipam-driver", "meshnet", "unnamed")
    assert (
        "--ipam-opt meshnet.network=NAME"
        in docker.host.run("/usr/bin/docker", *unnamed, check=False).stderr
    )


@pytest.mark.skipif(bool(missing(COMPOSE)), reason=missing(COMPOSE))
def test_a_compose_file_with_our_driver_works_unchanged(mesh: Mesh, dockers: Dockers) -> None:
    play_compose(list(mesh), dockers, COMPOSE)
