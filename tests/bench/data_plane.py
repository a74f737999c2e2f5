"""D1, D2, D3: throughput, latency and CPU from container to container, against everything else.

    python -m tests.bench.data_plane [--rounds 6] [--seconds 3] [--only NAME …] [--without NAME …]

Every contender has two hosts of its own on one subnet, and all of them are set up before the first
measurement. Then they are measured in turn, round by round and in another order each round, so that
a noisy machine is noisy for all of them:

    bare        the wire itself, no encryption
    wireguard   a WireGuard tunnel by hand, same backend as meshnet's, host to host
    by-hand     VXLAN over such a tunnel by hand: bridges, static FDB and neighbours, containers
    by-hand-nf  the same where bridged packets pass iptables, as container engines want it
    meshnet     two containers attached to network default
    nebula      its tunnel, host to host           tinc        its tunnel, host to host
    swarm       Docker Swarm's overlay network in clear, between containers of two dockerd

What counts are ratios within a round; shown is their median, with the range. CPU is all that the
machine spent while a stream ran, so it says something on a machine that does nothing else. Needs
root and iperf3, fping; a contender that is not installed is left out, and that is said.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import rivals
from tests.lab.guest import has_wireguard
from tests.lab.hosts import Host
from tests.lab.mesh import Mesh, addresses
from tests.lab.place import Daemon, Place
from tests.lab.topology import Lab
from tests.lab.waiting import wait_until

PROBES = 250
PORT = 5201
BASE = "wireguard"


@dataclass
class Round:
    """What one round measured on a way. Latencies in milliseconds, CPU in seconds per gigabit."""

    megabits: float
    cpu: float
    p50: float
    p99: float


@dataclass
class Way:
    """A way from one place to another and what was measured on it.

    `inside` are the words that enter an engine's container from the place.
    """

    name: str
    client: Place
    server: Place
    address: str
    inside: tuple[Sequence[str], Sequence[str]] = ((), ())
    rounds: list[Round] = field(default_factory=list)

    def serve(self) -> Daemon:
        """Start the server and wait until the client reaches it."""
        serving = ("iperf3", "-s", "-p", str(PORT))
        daemon = self.server.start("iperf", *self.inside[1], *serving)
        ping = (*self.inside[0], "ping", "-n", "-c1", "-W1", self.address)
        wait_until(lambda: self.client.works(*ping), 40, f"{self.name} answers")
        return daemon

    def measure(self, seconds: int) -> None:
        spent = busy_seconds()
        megabits = self._throughput(seconds)
        cpu = (busy_seconds() - spent) / (megabits * seconds / 1000)
        times = self._pings()
        p99 = times[int(len(times) * 0.99) - 1]
        self.rounds.append(Round(megabits, cpu, statistics.median(times), p99))

    def _throughput(self, seconds: int) -> float:
        words = ("iperf3", "--json", "-c", self.address, "-p", str(PORT), "-t", str(seconds))
        done = self.client.run(*self.inside[0], *words, timeout=seconds + 30)
        received = json.loads(done.stdout)["end"]["sum_received"]
        return float(received["bits_per_second"]) / 1e6

    def _pings(self) -> list[float]:
        words = ("fping", "-q", "-C", str(PROBES), "-p", "4", "-t", "1000", self.address)
        output = self.client.run(*self.inside[0], *words, check=False, timeout=60)
        text = (output.stderr or output.stdout).strip().splitlines()[-1]
        times = sorted(float(word) for word in text.partition(" : ")[2].split() if word != "-")
        if len(times) < PROBES / 2:
            raise RuntimeError(f"{self.name}: {PROBES - len(times)} of {PROBES} pings were lost")
        return times


def busy_seconds() -> float:
    """Return the CPU time that the whole machine has spent so far."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, _steal = map(int, words)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


Builder = Callable[[Lab, Host, Host], Way]


def bare(lab: Lab, a: Host, b: Host) -> Way:
    return Way("bare", a, b, b.address4)


def _tunnel(a: Host, b: Host, name: str, port: int, net: str) -> None:
    """Make a WireGuard tunnel by hand, NET.1 to NET.2, with the backend this machine has."""
    keys = []
    for host in (a, b):
        private = host.run("wg", "genkey").stdout.strip()
        keys.append((private, host.run("wg", "pubkey", input=private).stdout.strip()))
        if has_wireguard():
            host.ip(f"link add {name} type wireguard")
        else:
            host.start(f"{name}-go", "wireguard-go", "-f", name)
            wait_until(lambda host=host: host.works("wg", "show", name), 5, f"{name} is there")
    for number, host in enumerate((a, b)):
        other = (b, a)[number]
        host.file(f"/run/{name}.key").write_text(keys[number][0])
        host.run("wg", "set", name, "private-key", f"/run/{name}.key", "listen-port", str(port))
        host.run("wg", "set", name, "peer", keys[1 - number][1], "allowed-ips", f"{net}.0/24",
                 "endpoint", f"{other.address4}:{port}")  # fmt: skip
        host.ip(f"addr add {net}.{number + 1}/24 dev {name}", f"link set {name} mtu 1440 up")


def wireguard(lab: Lab, a: Host, b: Host) -> Way:
    _tunnel(a, b, "wgbare", 52001, "10.91.0")
    return Way("wireguard", a, b, "10.91.0.2")


def by_hand(lab: Lab, a: Host, b: Host) -> Way:
    return _by_hand(a, b, "by-hand", "hand", filtered=0)


def by_hand_filtered(lab: Lab, a: Host, b: Host) -> Way:
    return _by_hand(a, b, "by-hand-nf", "hanf", filtered=1)


def _by_hand(a: Host, b: Host, name: str, short: str, filtered: int) -> Way:
    """VXLAN over a tunnel of its own, as small as it can be.

    `filtered`: whether bridged packets pass iptables.
    """
    _tunnel(a, b, f"wg{short}", 52002, "10.92.0")
    boxes = [a.container("hand"), b.container("hand")]
    macs = ["02:00:00:00:92:01", "02:00:00:00:92:02"]
    setting = f"for f in /proc/sys/net/bridge/bridge-nf-call-*; do echo {filtered} >$f; done"
    for number, host in enumerate((a, b)):
        mine, theirs = number, 1 - number
        host.run("sh", "-c", setting, check=False)
        host.ip(
            f"link add vxhand mtu 1390 type vxlan id 92 local 10.92.0.{mine + 1} dstport 4790"
            " nolearning proxy",
            "link add brhand type bridge mcast_snooping 0",
            "link set vxhand master brhand up",
            "link set brhand mtu 1390 up",
            f"link add vhand mtu 1390 type veth peer name eth0 mtu 1390 address {macs[mine]}"
            f" netns {boxes[number].inner_pid}",
            "link set vhand master brhand up",
            f"neigh replace 10.93.0.{theirs + 1} lladdr {macs[theirs]} dev vxhand nud permanent",
        )
        host.run("bridge", "fdb", "append", macs[theirs], "dev", "vxhand", "dst",
                 f"10.92.0.{theirs + 1}")  # fmt: skip
        boxes[number].ip(f"addr add 10.93.0.{mine + 1}/24 dev eth0", "link set eth0 up")
    return Way(name, boxes[0], boxes[1], "10.93.0.2")


def meshnet(lab: Lab, a: Host, b: Host) -> Way:
    mesh = Mesh(lab, lab.host("hub", "lan"))
    mesh.start()
    boxes = []
    for host in (a, b):
        node = mesh.join(host)
        box = host.container("box")
        boxes.append((box, addresses(node.attach(box))[0]))
    mesh.wait_until_whole()
    return Way("meshnet", boxes[0][0], boxes[1][0], boxes[1][1])


def nebula(lab: Lab, a: Host, b: Host) -> Way:
    return Way("nebula", a, b, rivals.nebula(a, b))


def tinc(lab: Lab, a: Host, b: Host) -> Way:
    return Way("tinc", a, b, rivals.tinc(a, b))


def swarm(lab: Lab, a: Host, b: Host) -> Way:
    address, containers = rivals.swarm(a, b)
    first, second = (("nsenter", f"--net=/proc/{pid}/ns/net") for pid in containers)
    return Way("swarm", a, b, address, (first, second))


BUILDERS: dict[str, tuple[Builder, str]] = {
    "bare": (bare, "ip"),
    "wireguard": (wireguard, "wg"),
    "by-hand": (by_hand, "wg"),
    "by-hand-nf": (by_hand_filtered, "wg"),
    "meshnet": (meshnet, "nft"),
    "nebula": (nebula, "nebula-cert"),
    "tinc": (tinc, "tincd"),
    "swarm": (swarm, "dockerd"),
}
"""Contender → how it is made, and the program it needs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", action="append", default=[], choices=BUILDERS)
    parser.add_argument("--without", action="append", default=[], choices=BUILDERS)
    options = parser.parse_args()
    names = [one for one in options.only or BUILDERS if one not in options.without]
    with Lab("bench: data plane") as lab:
        lab.subnet("lan", "192.0.2.0/24")
        ways = [way for number, name in enumerate(names) if (way := build(lab, name, number))]
        with ExitStack() as servers:
            for way in ways:
                servers.callback(way.serve().kill)
            for number in range(options.rounds):
                for way in random.Random(number).sample(ways, len(ways)):
                    way.measure(options.seconds)
                print(f"round {number + 1} of {options.rounds} done", flush=True)
        report(ways)


def build(lab: Lab, name: str, number: int) -> Way | None:
    """Set up a contender on hosts of its own; None when it is not installed."""
    builder, program = BUILDERS[name]
    if not shutil.which(program):
        print(f"left out, not installed: {name}", flush=True)
        return None
    print(f"setting up {name}", flush=True)
    return builder(lab, lab.host(f"a{number}", "lan"), lab.host(f"b{number}", "lan"))


def report(ways: list[Way]) -> None:
    """Print medians, and ratios to bare WireGuard with their range over the rounds."""
    base = next((way for way in ways if way.name == BASE), ways[0])
    backend = "kernel" if has_wireguard() else "wireguard-go"
    print(f"\nWireGuard: {backend}, Linux {os.uname().release}, {os.cpu_count()} CPU")
    speed = f"{'path':<11}{'Mb/s':>8}{f'÷ {base.name}':>20}{'CPU s/Gb':>10}"
    print(f"{speed}{'p50 ms':>9}{f'÷ {base.name}':>20}{'p99 ms':>9}")
    for way in ways:
        faster = [one.megabits / other.megabits for one, other in pairs(way, base)]
        later = [one.p50 / other.p50 for one, other in pairs(way, base)]
        print(
            f"{way.name:<11}{middle(way, 'megabits'):>8.0f}{spread(faster):>20}"
            f"{middle(way, 'cpu'):>10.2f}{middle(way, 'p50'):>9.3f}{spread(later):>20}"
            f"{middle(way, 'p99'):>9.3f}"
        )


def pairs(way: Way, base: Way) -> list[tuple[Round, Round]]:
    return list(zip(way.rounds, base.rounds, strict=True))


def middle(way: Way, what: str) -> float:
    return statistics.median(getattr(one, what) for one in way.rounds)


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


if __name__ == "__main__":
    main()
