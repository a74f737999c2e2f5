"""Shell. Docker on the mesh when something fails: kills, crowds, repeats, a coordinator that is
down, other people's rules.

Full counts, which take minutes: MESHNET_CONTAINERS=200 started at once, MESHNET_RESTARTS=100 of one
container, MESHNET_KILLS=50 of the agent in the middle of a call.
"""

from __future__ import annotations

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from tests.engines.docker_scenes import (
    MARKS,
    STAY,
    Dockers,
    address,
    ask,
    at_once,
    create,
    dockers,
    mesh,
    meshed,
    nothing_remains_on,
    resolved,
    serve,
)
from tests.lab import wait_until
from tests.lab.engines import DRIVER_SOCKET, IMAGE, Docker, missing
from tests.lab.mesh import PROGRAM, Mesh
from tests.scenes.mesh_scenes import differences, dump, everywhere

__all__ = ["dockers", "mesh", "meshed"]

pytestmark = MARKS

ACTIVATE = "systemd-socket-activate"
CONTAINERS = int(os.environ.get("MESHNET_CONTAINERS", "24"))
RESTARTS = int(os.environ.get("MESHNET_RESTARTS", "6"))
KILLS = int(os.environ.get("MESHNET_KILLS", "4"))
BRIEF = ("run", "--rm", "--network=appnet", IMAGE, "/bin/true")


def reaches(docker: Docker, name: str, other: str) -> bool:
    """Say whether a container has an answer to a ping."""
    ping = ("exec", name, "/bin/ping", "-c1", "-W2", other)
    return docker.host.works("/usr/bin/docker", *ping)


MADE_UP = re.compile(r"veth[0-9a-f]{7}|counter packets \d+ bytes \d+")
"""What Docker names and counts."""


def steady(lines: list[str]) -> str:
    """Return lines of a dump without what Docker makes up, and what bridges do by themselves."""
    kept = (line for line in lines if "fe80:" not in line and "ff00:" not in line)
    return "\n".join(sorted(MADE_UP.sub("…", line) for line in kept))


def restart(docker: Docker) -> None:
    assert docker.daemon is not None
    docker.daemon.stop(90)
    docker.start()


def test_many_containers_started_at_once_have_an_address_each(mesh: Mesh, dockers: Dockers) -> None:
    here, there = dockers.values()
    there.run("far", "appnet", *STAY)
    names = [f"p{number}" for number in range(CONTAINERS)]
    start = ("run", "-d", "--network=appnet", "--stop-timeout=0")
    at_once((here, (*start, f"--name={name}", IMAGE, *STAY)) for name in names)
    template = '{{(index .NetworkSettings.Networks "appnet").IPAddress}}'
    given = here("inspect", "-f", template, *names).split()
    assert len(set(given)) == CONTAINERS
    wait_until(lambda: reaches(there, "far", given[-1]), 10, "the last one is reached")
    wait_until(lambda: everywhere(list(mesh), f"{names[-1]}.appnet.mesh", given[-1:]), 10, "named")
    at_once((here, ("rm", "-f", *names[part::8])) for part in range(8))
    there("rm", "-f", "far")


def test_a_container_restarted_again_and_again_leaves_the_host_as_it_was(
    mesh: Mesh, dockers: Dockers
) -> None:
    docker, node = dockers["n1"], mesh.nodes["n1"]
    docker.run("again", "appnet", *STAY)
    before = dump(node.host)
    for _ in range(RESTARTS):
        docker("restart", "-t", "0", "again")
    own = [address(docker, "again")]
    wait_until(lambda: everywhere(list(mesh), "again.appnet.mesh", own), 5, "it has its name")
    after = dump(node.host)
    for what in ("routes", "routes6", "rules", "nft", "namespaces"):
        assert differences(steady(before[what]), steady(after[what])) == ""
    assert len(after["links"]) == len(before["links"])
    assert node.plan() == ()
    docker("rm", "-f", "again")


def test_an_agent_killed_in_the_middle_leaves_nothing(mesh: Mesh, dockers: Dockers) -> None:
    node, docker = mesh.nodes["n2"], dockers["n2"]
    words = ("run", "--rm", "--name=brief", "--network=appnet", IMAGE, "/bin/true")
    for number in range(KILLS):
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(docker.host.works, "/usr/bin/docker", *words, timeout=90)
            wait([run], 1.2 * number / KILLS)
            node.kill()
            run.exception(90)
        node.start()
        docker("rm", "-f", "brief", check=False)
        nothing_remains_on(node)
    docker(*words)
    assert everywhere(list(mesh), "brief.appnet.mesh", [])


def test_without_an_agent_docker_is_told_at_once_and_containers_run_on(
    mesh: Mesh, dockers: Dockers
) -> None:
    node, (docker, other) = mesh.nodes["n1"], dockers.values()
    docker.run("stays", "appnet", *STAY)
    other.run("other", "appnet", *STAY)
    far = address(other, "other")
    wait_until(lambda: reaches(docker, "stays", far), 5, "ping")
    node.kill()
    begun = time.monotonic()
    failed = docker.host.run("/usr/bin/docker", *BRIEF, check=False, timeout=60)
    assert "no agent listens" in failed.stderr
    assert reaches(docker, "stays", far)
    docker("rm", "-f", "stays")
    assert time.monotonic() - begun < 15
    node.start()
    nothing_remains_on(node)
    docker(*BRIEF)


def test_without_a_coordinator_containers_start_stop_and_are_found(
    mesh: Mesh, dockers: Dockers
) -> None:
    here, there = dockers.values()
    here(*BRIEF)
    there(*BRIEF)
    mesh.coordinator.kill()
    both = [serve(here, "web-1", "one"), serve(there, "web-2", "two")]
    wait_until(lambda: everywhere(list(mesh), "web.appnet.mesh", both), 10, "both are named")
    assert resolved(here, "web.mesh") == sorted(both)
    assert ask(here, "http://web-2.mesh/") == "this is two\n"
    there("rm", "-f", "web-2")
    wait_until(lambda: everywhere(list(mesh), "web.appnet.mesh", both[:1]), 10, "one is gone")
    here("rm", "-f", "web-1")
    mesh.coordinator.start()
    mesh.wait_until_whole()


def test_a_plugin_that_starts_anew_knows_the_networks(mesh: Mesh, dockers: Dockers) -> None:
    docker = dockers["n1"]
    docker.run("stays", "appnet", *STAY)
    assert docker.plugin is not None
    docker.plugin.kill()
    docker.start_plugin()
    docker(*BRIEF)
    docker("restart", "-t", "0", "stays")
    assert address(docker, "stays")
    docker("rm", "-f", "stays")


@pytest.mark.skipif(bool(missing(ACTIVATE)), reason=missing(ACTIVATE))
def test_the_first_call_on_the_socket_starts_the_plugin(mesh: Mesh, dockers: Dockers) -> None:
    docker = dockers["n2"]
    assert docker.plugin is not None
    docker.plugin.kill()
    docker.start_plugin(ACTIVATE, "-l", DRIVER_SOCKET)
    docker(*BRIEF)
    assert docker.plugin.running


def test_dockerd_restarts_and_its_containers_have_their_names_again(
    mesh: Mesh, dockers: Dockers
) -> None:
    docker = dockers["n1"]
    serve(docker, "web-1", "one", "--restart", "always")
    restart(docker)
    wait_until(lambda: address(docker, "web-1"), 20, "the container runs again")
    again = [address(docker, "web-1")]
    for name in ("web.appnet.mesh", "web-1.appnet.mesh"):
        wait_until(lambda name=name: everywhere(list(mesh), name, again), 20, f"{name} is back")
    assert ask(dockers["n2"], "http://web.mesh/") == "this is one\n"
    docker("rm", "-f", "web-1")


def test_rules_of_others_do_not_stop_the_mesh_and_ours_come_back(
    mesh: Mesh, dockers: Dockers
) -> None:
    node, (docker, other) = mesh.nodes["n1"], dockers.values()
    docker.run("c1", "appnet", *STAY)
    other.run("c2", "appnet", *STAY)
    far = address(other, "c2")
    wait_until(lambda: reaches(docker, "c1", far), 5, "ping")
    rules = node.host.output("iptables", "-S")
    assert "-P FORWARD DROP" in rules
    assert "mesh" not in rules
    assert node.host.output("sysctl", "-n", "net.bridge.bridge-nf-call-iptables") == "1\n"
    node.host.run("iptables", "-I", "DOCKER-USER", "-j", "DROP")
    assert reaches(docker, "c1", far)
    node.host.run("iptables", "-F", "DOCKER-USER")
    node.host.run("nft", "delete", "table", "inet", "meshnet")
    listing = ("nft", "list", "table", "inet", "meshnet")
    wait_until(lambda: node.host.works(*listing), 10, "our table is back")
    assert reaches(docker, "c1", far)
    node.host.run("iptables", "-A", "DOCKER-USER", "-j", "RETURN")
    assert node.host.output("iptables", "-S") == rules
    docker("rm", "-f", "c1")
    other("rm", "-f", "c2")


def test_with_live_restore_a_container_runs_on_while_dockerd_restarts(
    mesh: Mesh, dockers: Dockers
) -> None:
    docker, other = dockers.values()
    settings = docker.host.file("/run/daemon.json")
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "live-restore": True}))
    restart(docker)
    own = serve(docker, "web-1", "one")
    process = docker("inspect", "-f", "{{.State.Pid}}", "web-1")
    restart(docker)
    assert docker("inspect", "-f", "{{.State.Pid}}", "web-1") == process
    assert address(docker, "web-1") == own
    assert everywhere(list(mesh), "web-1.appnet.mesh", [own])
    assert ask(other, "http://web.mesh/") == "this is one\n"
    docker(*BRIEF)
    docker("rm", "-f", "web-1")


def test_a_host_that_comes_back_has_its_containers_on_the_mesh_again(
    mesh: Mesh, dockers: Dockers
) -> None:
    node, docker = mesh.nodes["n2"], dockers["n2"]
    serve(docker, "web-2", "two", "--restart", "always")
    pid = docker("inspect", "-f", "{{.State.Pid}}", "web-2").strip()
    settings = node.host.file("/run/daemon.json").read_text()
    assert docker.daemon is not None
    docker.daemon.kill()
    node.host.run("kill", "-9", pid)
    node.host.reboot()
    node.host.file("/run/daemon.json").write_text(settings)
    docker.start_plugin()
    node.start()
    docker.start()
    wait_until(lambda: address(docker, "web-2"), 20, "the container runs again")
    again = [address(docker, "web-2")]
    for name in ("web.appnet.mesh", "web-2.appnet.mesh"):
        wait_until(lambda name=name: everywhere(list(mesh), name, again), 40, f"{name} is back")
    assert ask(dockers["n1"], "http://web.mesh/") == "this is two\n"
    docker("rm", "-f", "web-2")


def test_a_purge_leaves_nothing_of_ours_and_all_of_dockers(mesh: Mesh, dockers: Dockers) -> None:
    node, docker = mesh.nodes["n2"], dockers["n2"]
    create(docker, "kept")
    docker.run("c1", "kept", *STAY)
    rules = node.host.output("iptables", "-S")
    assert "meshnet-appnet" in node.host.output("ip", "netns", "list")
    status, said = node.host.transcript(PROGRAM, "down", "--purge", "--yes")
    assert status == 0, said
    assert "removed Docker's network appnet" in said
    assert "network kept stays (`docker network rm kept` removes it)" in said
    links = node.host.output("ip", "-o", "link")
    assert "mesh" not in links
    assert "meshnet" not in node.host.output("nft", "list", "tables")
    assert node.host.output("ip", "netns", "list") == ""
    assert node.host.output("iptables", "-S") == rules
    docker("run", "--rm", IMAGE, "/bin/true")
    docker("rm", "-f", "c1")
    docker("network", "rm", "kept")
    assert docker("network", "ls", "-qf", "driver=meshnet") == ""
    mesh.nodes.pop("n2")
