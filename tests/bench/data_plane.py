"""D1, D2, D3: throughput and latency from container to container, against everything else.

    python -m tests.bench.data_plane [--rounds 3] [--seconds 4] [--without NAME …]

Two hosts on one subnet, one wire. Every contender is set up between the same two hosts before the
first measurement, and then all are measured in turn, round by round, so that a noisy machine is
noisy for all of them:

    bare        the wire itself, no encryption
    wireguard   a WireGuard tunnel by hand, same backend as meshnet's, host to host
    by-hand     VXLAN over such a tunnel by hand: bridges, static FDB and neighbours, containers
    meshnet     two containers attached to network default
    nebula      its tunnel, host to host           tinc        its tunnel, host to host

Figures are medians over the rounds and ratios of them. Needs root and iperf3, fping.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.guest import has_wireguard
from tests.lab.hosts import Host
from tests.lab.mesh import Mesh, addresses
from tests.lab.place import Place
from tests.lab.topology import Lab
from tests.lab.waiting import wait_until

PROBES = 1000


@dataclass
class Way:
    """A way from one place to another and what was measured on it."""

    name: str
    client: Place
    server: Place
    address: str
    port: int = 5201
    megabits: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def measure(self, seconds: int) -> None:
        self.megabits.append(self._throughput(seconds))
        times = self._pings()
        self.p50.append(statistics.median(times))
        self.p99.append(times[int(len(times) * 0.99) - 1])

    def _throughput(self, seconds: int) -> float:
        report = json.loads(
            self.client.run(
                *("iperf3", "--json", "-c", self.address, "-p", str(self.port), "-t", str(seconds)),
                timeout=seconds + 30,
            ).stdout
        )
        return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6

    def _pings(self) -> list[float]:
        output = self.client.run(
            *("fping", "-q", "-C", str(PROBES), "-p", "2", self.address), check=False, timeout=60
        )
        text = (output.stderr or output.stdout).strip().splitlines()[-1]
        times = sorted(float(word) for word in text.partition(" : ")[2].split() if word != "-")
        if len(times) < PROBES * 0.8:
            raise RuntimeError(f"{self.name}: {PROBES - len(times)} of {PROBES} pings were lost")
        return times


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
    return Way("wireguard", a, b, "10.91.0.2", 5202)


def by_hand(lab: Lab, a: Host, b: Host) -> Way:
    """VXLAN over a tunnel of its own, as small as it can be."""
    _tunnel(a, b, "wghand", 52002, "10.92.0")
    boxes = [a.container("hand"), b.container("hand")]
    macs = ["02:00:00:00:92:01", "02:00:00:00:92:02"]
    for number, host in enumerate((a, b)):
        mine, theirs = number, 1 - number
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
    return Way("by-hand", boxes[0], boxes[1], "10.93.0.2", 5203)


def meshnet(lab: Lab, a: Host, b: Host) -> Way:
    mesh = Mesh(lab, lab.host("hub", "lan"))
    mesh.start()
    boxes = []
    for host in (a, b):
        node = mesh.join(host)
        box = host.container("box")
        boxes.append((box, addresses(node.attach(box))[0]))
    mesh.wait_until_whole()
    return Way("meshnet", boxes[0][0], boxes[1][0], boxes[1][1], 5204)


def nebula(lab: Lab, a: Host, b: Host) -> Way:
    directory = Path(tempfile.mkdtemp(prefix="bench-nebula-"))
    run = lambda *words: subprocess.run(words, cwd=directory, check=True, capture_output=True)  # noqa: E731
    run("nebula-cert", "ca", "-name", "bench")
    for number, host in enumerate((a, b)):
        run("nebula-cert", "sign", "-name", host.name, "-ip", f"10.94.0.{number + 1}/24")
        (directory / f"{host.name}.yml").write_text(
            json.dumps(
                {
                    "pki": {
                        "ca": str(directory / "ca.crt"),
                        "cert": str(directory / f"{host.name}.crt"),
                        "key": str(directory / f"{host.name}.key"),
                    },
                    "static_host_map": {
                        "10.94.0.1": [f"{a.address4}:4242"],
                        "10.94.0.2": [f"{b.address4}:4242"],
                    },
                    "lighthouse": {
                        "am_lighthouse": number == 0,
                        "hosts": ["10.94.0.1"][number ^ 1 :],
                    },
                    "listen": {"host": "0.0.0.0", "port": 4242},
                    "tun": {"dev": "nebula0", "mtu": 1300},
                    "firewall": {
                        "outbound": [{"port": "any", "proto": "any", "host": "any"}],
                        "inbound": [{"port": "any", "proto": "any", "host": "any"}],
                    },
                }
            )
        )
        host.start("nebula", "nebula", "-config", str(directory / f"{host.name}.yml"))
    return Way("nebula", a, b, "10.94.0.2", 5205)


def tinc(lab: Lab, a: Host, b: Host) -> Way:
    directory = Path(tempfile.mkdtemp(prefix="bench-tinc-"))
    cards = {}
    for number, host in enumerate((a, b)):
        home = directory / host.name
        (home / "hosts").mkdir(parents=True)
        other = (b, a)[number].name
        (home / "tinc.conf").write_text(
            f"Name = {host.name}\nConnectTo = {other}\nInterface = tinc0\nMode = router\n"
        )
        up = home / "tinc-up"
        up.write_text(f"#!/bin/sh\nip addr add 10.95.0.{number + 1}/24 dev tinc0\n"
                      "ip link set tinc0 up\n")  # fmt: skip
        up.chmod(0o755)
        (home / "hosts" / host.name).write_text(
            f"Address = {host.address4}\nSubnet = 10.95.0.{number + 1}/32\n"
        )
        subprocess.run(
            ["tincd", "-c", str(home), "-K2048"], input=b"\n\n", check=True, capture_output=True
        )
        cards[host.name] = (home / "hosts" / host.name).read_text()
    for host in (a, b):
        for name, card in cards.items():
            (directory / host.name / "hosts" / name).write_text(card)
        host.start("tinc", "tincd", "-c", str(directory / host.name), "-D",
                   "--pidfile=/run/tinc.pid", "--logfile=/run/tinc.log")  # fmt: skip
    return Way("tinc", a, b, "10.95.0.2", 5206)


BUILDERS: dict[str, Builder] = {
    "bare": bare,
    "wireguard": wireguard,
    "by-hand": by_hand,
    "meshnet": meshnet,
    "nebula": nebula,
    "tinc": tinc,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--without", action="append", default=[], choices=BUILDERS)
    options = parser.parse_args()
    with Lab("bench: data plane") as lab:
        lab.subnet("lan", "192.0.2.0/24")
        a, b = lab.host("a", "lan"), lab.host("b", "lan")
        paths = []
        for name, build in BUILDERS.items():
            if name not in options.without:
                print(f"setting up {name}", flush=True)
                paths.append(build(lab, a, b))
        for path in paths:
            path.server.start(f"iperf-{path.name}", "iperf3", "-s", "-p", str(path.port))
            wait_until(
                lambda path=path: path.client.works("ping", "-c1", "-W1", path.address),
                20,
                f"{path.name} answers",
            )
        for number in range(options.rounds):
            for path in paths:
                path.measure(options.seconds)
            print(f"round {number + 1} of {options.rounds} done", flush=True)
        report(paths)


def report(paths: list[Way]) -> None:
    """Print medians, spread, and ratios to bare WireGuard."""
    base = next((path for path in paths if path.name == "wireguard"), paths[0])
    backend = "kernel" if has_wireguard() else "wireguard-go"
    print(f"\nWireGuard: {backend}, Linux {os.uname().release}")
    left = f"{'path':<11}{'Mb/s':>8} {'spread':>15}{'÷ wireguard':>13}"
    print(f"{left}{'p50 ms':>9}{'÷':>7}{'p99 ms':>9}")
    for path in paths:
        speed, p50 = statistics.median(path.megabits), statistics.median(path.p50)
        spread = f"{min(path.megabits):.0f}-{max(path.megabits):.0f}"
        print(
            f"{path.name:<11}{speed:>8.0f} {spread:>15}"
            f"{speed / statistics.median(base.megabits):>13.2f}{p50:>9.3f}"
            f"{p50 / statistics.median(base.p50):>7.2f}{statistics.median(path.p99):>9.3f}"
        )


if __name__ == "__main__":
    main()
