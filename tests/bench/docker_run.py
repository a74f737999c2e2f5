"""K2: how long `docker run` takes on our network, and what a container's traffic is like there.

    python -m tests.bench.docker_run [--runs 50] [--rounds 5]

Two nodes with a dockerd each, which are also a Swarm of two. Contenders in turn, in the same run:

    ours      a network of our driver, `docker network create -d meshnet`; sealed
    bridge    a bridge of Docker's own, on one host only
    overlay   Docker Swarm's overlay, as `docker network create -d overlay --attachable`; in clear

    K2        docker run -d … sleep: ours ÷ bridge, ours ÷ overlay. Not the first container of its
              network on the host, for which ours and Swarm make a namespace
    rm        docker rm -f of the same
    request   a page of a few bytes by HTTP from a container on the other host, wget and all
    ping      round trip to a container on the other host
    stream    a MB of a file by HTTP from the other host

Swarm's encrypted overlay needs IPsec in the kernel, so it runs only where that is.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable

from meshnet.model.addresses import RESOLVER
from tests.engines.docker_scenes import address, create
from tests.lab.engines import Docker
from tests.scenes.mesh_scenes import mesh_of

CONTENDERS = ("ours", "bridge", "overlay")
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


def run_and_remove(docker: Docker, runs: int, found: Found) -> None:
    for network in CONTENDERS:
        docker.run(f"first-{network}", network, "/bin/sleep", "10000")
    for number in range(runs):
        for network in CONTENDERS:
            name = f"{network}-{number}"
            run = timed(lambda n=name, w=network: docker.run(n, w, "/bin/sleep", "1000"))
            found["run"][network].append(run)
            found["rm"][network].append(timed(lambda n=name: docker("rm", "-f", n)))


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
        ours = by_network["ours"]
        print(f"{what:8} {'ours':8} {statistics.median(ours) * 1000:8.1f} ms")
        for name, took in by_network.items():
            if name == "ours" or not took:
                continue
            ratios = sorted(own / other for own, other in zip(ours, took, strict=True))
            spread = f"[{ratios[len(ratios) // 10]:.2f}–{ratios[-1 - len(ratios) // 10]:.2f}]"
            middle = statistics.median(took) * 1000
            print(
                f"{'':8} {name:8} {middle:8.1f} ms   ours ÷ {name} "
                f"{statistics.median(ratios):.2f} {spread}"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found: Found = {
        what: {name: [] for name in CONTENDERS}
        for what in ("run", "rm", "request", "ping", "stream")
    }
    with mesh_of(2, "docker run") as mesh:
        here, there = (Docker(node.host, str(RESOLVER)) for node in mesh)
        addresses = [node.host.address4 for node in mesh]
        swarm(here, there, (addresses[0], addresses[1]))
        for docker in (here, there):
            create(docker, "ours")
        print(f"WireGuard: {next(iter(mesh)).status().backend}")
        run_and_remove(here, options.runs, found)
        traffic(here, there, options.rounds, found)
    report(found)


if __name__ == "__main__":
    main()
