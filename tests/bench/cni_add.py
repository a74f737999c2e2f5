"""K1: how long a runtime waits for `meshnet-cni`, and for the reference plugins.

    python -m tests.bench.cni_add [--adds 100] [--parallel 20]

One node, its agent, and namespaces as many as ADDs. Contenders are started in the same way, by the
same process on the node, in turn, so that what else the machine does befalls both:

    ours       meshnet-cni as `meshnet cni setup` puts it there: interface, cluster-wide address,
               facts signed and on disk, names
    linked     the same, but the program that pip installs
    reference  bridge, which starts host-local: interface and address on this host only

    K1         ADD, one after the other: ours ÷ reference
    K1p        as many at once as --parallel says: until the last has ended

DEL is said, too. Times are those of the whole process, as a runtime sees them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab import Lab
from tests.lab.engines import CNI_DIRECTORY, PLUGIN
from tests.lab.mesh import PROGRAM, Mesh

INSIDE = "--inside"
OURS = {"cniVersion": "1.0.0", "type": PLUGIN}
BRIDGE = {
    "cniVersion": "1.0.0",
    "name": "reference",
    "type": "bridge",
    "bridge": "br-reference",
    "isGateway": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/16"}]]},
}
INSTALLED = f"/run/cni/bin/{PLUGIN}"
CONTENDERS = {
    "ours": (INSTALLED, {**OURS, "name": "ours"}),
    "linked": (str(Path(PROGRAM).with_name(PLUGIN)), {**OURS, "name": "linked"}),
    "reference": (f"{CNI_DIRECTORY}/bridge", BRIDGE),
}


def call(name: str, command: str, number: int) -> float:
    """Call a plugin as a runtime does; return the seconds it took."""
    program, config = CONTENDERS[name]
    container = f"{name}-{number}"
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": f"/run/netns/{container}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": CNI_DIRECTORY,
        "PATH": os.environ["PATH"],
    }
    said = json.dumps(config).encode()
    start = time.perf_counter()
    done = subprocess.run([program], input=said, env=environment, capture_output=True, check=False)
    took = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{name} {command}: {done.stdout.decode()}{done.stderr.decode()}")
    return took


def in_turn(command: str, numbers: Sequence[int]) -> dict[str, float]:
    """Return the median seconds of each contender, called one after the other."""
    took: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in numbers:
        for name in CONTENDERS:
            took[name].append(call(name, command, number))
    return {name: statistics.median(each) for name, each in took.items()}


def at_once(command: str, numbers: Sequence[int]) -> dict[str, float]:
    """Return the seconds until all calls of a contender have ended."""
    took = {}
    for name in CONTENDERS:
        start = time.perf_counter()
        with ThreadPoolExecutor(len(numbers)) as pool:
            list(pool.map(lambda number, name=name: call(name, command, number), numbers))
        took[name] = time.perf_counter() - start
    return took


def inside(adds: int, parallel: int) -> None:
    """Measure, on the node; print what was found as JSON."""
    for number in range(max(adds, parallel)):
        for name in CONTENDERS:
            subprocess.run(["ip", "netns", "add", f"{name}-{number}"], check=True)
    found = {}
    runs: list[tuple[str, Callable[..., dict[str, float]], int]] = [
        ("", in_turn, adds),
        (f" × {parallel} at once", at_once, parallel),
    ]
    for suffix, measured, count in runs:
        for command in ("ADD", "DEL"):
            found[command + suffix] = measured(command, range(count))
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--adds", type=int, default=100)
    parser.add_argument("--parallel", type=int, default=20)
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options.adds, options.parallel)
        return
    with Lab("CNI ADD") as lab:
        lab.subnet("lan", "192.0.2.0/24")
        mesh = Mesh(lab, lab.host("hub", "lan"))
        mesh.start()
        node = mesh.join(lab.host("n1", "lan"))
        mesh.wait_until_whole()
        node.meshnet("cni", "setup", "--bin-dir", str(Path(INSTALLED).parent))
        words = (sys.executable, "-m", "tests.bench.cni_add", INSIDE)
        counts = ("--adds", str(options.adds), "--parallel", str(options.parallel))
        report(json.loads(node.host.output(*words, *counts, timeout=900)))


def report(found: dict[str, dict[str, float]]) -> None:
    for what, took in found.items():
        times = "  ".join(f"{name} {seconds * 1000:6.1f} ms" for name, seconds in took.items())
        ratios = "  ".join(
            f"{name} ÷ reference {seconds / took['reference']:.2f}"
            for name, seconds in took.items()
            if name != "reference"
        )
        print(f"{what:16}  {times}   {ratios}")


if __name__ == "__main__":
    main()
