"""K2: how long `docker run` takes on our network, and what a container's traffic is like there.

    python -m tests.bench.docker_run [--runs 50] [--rounds 5]

Two nodes with a dockerd each, which are also a Swarm of two. Contenders in turn, in the same run:

    ours      a network of our driver, `docker network create -d meshnet`; sealed
    ours6     the same with IPv6, as `--ipv6 --ipam-driver meshnet`
    docker0   Docker's default bridge, on one host only: its containers have no names
    bridge    a bridge as `docker network create` makes it, on one host only
    bridge6   the same with IPv6
    overlay   Docker Swarm's overlay, as `docker network create -d overlay --attachable`; in clear

    K2        docker run -d … sleep: ours ÷ docker0, bridge and overlay, ours6 ÷ bridge6
    rm        docker rm -f of the same
    CPU       of the agent and our driver on that host, for both
    first     docker run of the first container of a network, which has been there for a while
    request   a page of a few bytes by HTTP from a container on the other host, wget and all
    ping      round trip to a container on the other host
    stream    a MB of a file by HTTP from the other host

Swarm's encrypted overlay needs IPsec in the kernel, so it runs only where that is.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from meshnet.model.addresses import RESOLVER
from tests.engines.docker_scenes import address, create
from tests.lab.engines import Docker
from tests.lab.place import Daemon
from tests.scenes.mesh_scenes import mesh_of

CONTENDERS = ("ours", "ours6", "docker0", "bridge", "bridge6", "overlay")
OURS = {"docker0": "ours", "bridge": "ours", "bridge6": "ours6", "overlay": "ours"}
"""Which network of ours is compared with each."""
NAMES = {"docker0": "bridge", "bridge": "own"}
"""What Docker calls a contender's network where that is not the contender's name."""
SETTLED = 3.0
"""Seconds after which a network has been there for a while."""
BIG = 64
"""MB of the file that is streamed."""

SERVE = f"""
mkdir /w; echo x >/w/small; dd if=/dev/zero of=/w/big bs=1M count={BIG} 2>/dev/null
exec /bin/httpd -f -p 80 -h /w
"""
REQUESTS = 50

Found = dict[str, dict[str, list[float]]]


def swarm(here: Docker, there: Docker, addresses: tuple[str, str]) -> None:
    """Make a Swarm of the two, and an overlay on it."""
    here("swarm", "init", "--advertise-addr", addresses[0])
    token = here("swarm", "join-token", "-q", "worker").strip()
    there("swarm", "join", "--token", token, "--advertise-addr", addresses[1], addresses[0])
    here("network", "create", "-d", "overlay", "--attachable", "overlay")


def timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def create_all(docker: Docker) -> None:
    """Make the networks of one host but Swarm's."""
    create(docker, "ours")
    ipam = ("--ipam-driver", "meshnet", "--ipam-opt", "meshnet.network=ours6")
    docker("network", "create", "-d", "meshnet", "--ipv6", *ipam, "ours6")
    docker("network", "create", NAMES["bridge"])
    docker("network", "create", "--ipv6", "--subnet", "fd00:6::/64", "bridge6")


def cpu(*daemons: Daemon | None) -> float:
    """Return the seconds of CPU that processes have used."""
    ticks = 0
    for daemon in filter(None, daemons):
        stat = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(stat[11]) + int(stat[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def run_and_remove(docker: Docker, agent: Daemon | None, runs: int, found: Found) -> None:
    start(docker, "warm", "docker0")
    time.sleep(SETTLED)
    for contender in CONTENDERS:
        run = timed(lambda c=contender: start(docker, f"first-{c}", c))
        found["first"][contender].append(run)
    for number in range(runs):
        for contender in CONTENDERS:
            name = f"{contender}-{number}"
            before = cpu(agent, docker.plugin)
            run = timed(lambda n=name, c=contender: start(docker, n, c))
            found["run"][contender].append(run)
            found["rm"][contender].append(timed(lambda n=name: docker("rm", "-f", n)))
            found["CPU"][contender].append(cpu(agent, docker.plugin) - before)


def start(docker: Docker, name: str, contender: str) -> None:
    docker.run(name, NAMES.get(contender, contender), "/bin/sleep", "10000")


def traffic(here: Docker, there: Docker, rounds: int, found: Found) -> None:
    """Ask `there` from `here`; a bridge does not lead there."""
    servers = {}
    for network in ("ours", "overlay"):
        there.run(f"server-{network}", network, "/bin/sh", "-c", SERVE)
        here.run(f"client-{network}", network, "/bin/sleep", "10000")
        servers[network] = address(there, f"server-{network}", network)
    time.sleep(3)
    for _ in range(rounds):
        for network, server in servers.items():
            client = ("exec", f"client-{network}", "/bin/sh", "-c")
            small = f"for i in $(seq {REQUESTS}); do wget -qO- http://{server}/small; done"
            took = timed(lambda c=client, s=small: here(*c, s))
            found["request"][network].append(took / REQUESTS)
            said = here(*client, f"ping -q -c 50 -i 0.02 {server}")
            average = re.search(r"= [\d.]+/([\d.]+)/", said)
            assert average, said
            found["ping"][network].append(float(average[1]) / 1000)
            big = f"wget -qO /dev/null http://{server}/big"
            found["stream"][network].append(timed(lambda c=client, s=big: here(*c, s)) / BIG)


def report(found: Found) -> None:
    """Print medians in milliseconds, and ours ÷ each other: the median and spread of the rounds."""
    for what, by_network in found.items():
        for name, took in by_network.items():
            if took:
                middle = statistics.mean(took) if what == "CPU" else statistics.median(took)
                against = "" if what == "CPU" else compared(by_network, name)
                print(f"{what:8} {name:8} {middle * 1000:8.1f} ms   {against}")


def compared(by_network: dict[str, list[float]], name: str) -> str:
    """Return ours ÷ another, '' for ours."""
    own = OURS.get(name)
    if own is None:
        return ""
    pairs = zip(by_network[own], by_network[name], strict=True)
    ratios = sorted(one / other for one, other in pairs)
    spread = f"[{ratios[len(ratios) // 10]:.2f}–{ratios[-1 - len(ratios) // 10]:.2f}]"
    return f"{own} ÷ {name} {statistics.median(ratios):.2f} {spread}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found: Found = {
        what: {name: [] for name in CONTENDERS}
        for what in ("first", "run", "rm", "CPU", "request", "ping", "stream")
    }
    with mesh_of(2, "docker run") as mesh:
        here, there = (Docker(node.host, str(RESOLVER)) for node in mesh)
        addresses = [node.host.address4 for node in mesh]
        swarm(here, there, (addresses[0], addresses[1]))
        for docker in (here, there):
            create_all(docker)
        print(f"WireGuard: {next(iter(mesh)).status().backend}")
        run_and_remove(here, next(iter(mesh)).agent, options.runs, found)
        traffic(here, there, options.rounds, found)
    report(found)


if __name__ == "__main__":
    main()
