"""X1: how long a command takes, from being typed to being done, beside a bare interpreter.

    python -m tests.bench.start [--rounds 15]

All run on a host in a namespace with a live agent, from compiled modules as installed programs do,
in an order that is drawn anew for each round. What starting any process there costs is in all.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time

from tests.lab.hosts import Host
from tests.lab.mesh import PROGRAM, Mesh
from tests.lab.topology import Lab

BARE = "python -c pass"
COMMANDS = {
    "python -I -S -c pass": (sys.executable, "-I", "-S", "-c", "pass"),
    BARE: (sys.executable, "-c", "pass"),
    "meshnet --help": (PROGRAM, "--help"),
    "meshnet status": (PROGRAM, "status"),
    "meshnet status --json": (PROGRAM, "status", "--json"),
    "meshnet join (token refused)": (PROGRAM, "join", "mnt1.nothing"),
}


def seconds(host: Host, command: tuple[str, ...]) -> float:
    """Run a command to its end, whatever that is."""
    start = time.monotonic()
    host.run(*command, check=False)
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with Lab("bench: start") as lab:
        lab.subnet("lan", "192.0.2.0/24")
        mesh = Mesh(lab, lab.host("hub", "lan"))
        mesh.start()
        host = mesh.join(lab.host("n1", "lan")).host
        for name, command in COMMANDS.items():
            seconds(host, command)  # once before, so that all modules are compiled
            assert host.run(*command, check=False).returncode != 70, name
        for _ in range(rounds):
            for name in random.sample(list(COMMANDS), len(COMMANDS)):
                times[name].append(seconds(host, COMMANDS[name]))
    bare = statistics.median(times[BARE])
    print(f"{'whole process':<30} {'median':>8} {'least':>8} {'÷ bare':>8}")
    for name, taken in times.items():
        median = statistics.median(taken)
        print(
            f"{name:<30} {median * 1000:5.0f} ms {min(taken) * 1000:5.0f} ms {median / bare:8.2f}"
        )


if __name__ == "__main__":
    main()
