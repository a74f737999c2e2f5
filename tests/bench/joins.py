"""J1, J2: how soon machines that join are on the mesh: one among many, and many at once.

    python -m tests.bench.joins [--present 50] [--rounds 3] [--together 20] [--fake 200]

    J1  `meshnet join` typed on a fresh host, --present nodes there → the first ping between its
        container and another's. All programs are started as a person would: join, agent, attach.
    J2  --together hosts join at once → every pair has shaken hands, as each agent finds by its own
        probes and as WireGuard says.
        The same with --fake agents over kernels in memory, in one process with a coordinator.

A count of 0 leaves a part out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from functools import partial
from pathlib import Path

from meshnet.errors import MeshnetError
from tests.bench.reaction import join
from tests.lab.guest import has_wireguard
from tests.lab.mesh import PROGRAM, TALKATIVE, Mesh, Node, addresses
from tests.lab.place import all_processes
from tests.lab.topology import Lab
from tests.lab.waiting import wait_until
from tests.scenes.coordinators import until
from tests.sim.world import SimNode, World

LIMIT = 180.0
PAUSE = 0.05
JOIN = 'printf "%s\\n" "$1" | "$0" join - --name "$2" && exec "$0" agent'
"""What a person types on each of many machines."""


def among(present: int, rounds: int) -> list[float]:
    """J1: seconds from `join` to the first ping, in a mesh of `present` nodes."""
    with Lab("bench: one joins") as lab:
        lab.subnet("lan", "192.0.2.0/24")
        mesh = Mesh(lab, lab.host("hub", "lan"))
        mesh.start()
        for number in range(present):
            mesh.join(lab.host(f"n{number}", "lan"))
        mesh.wait_until_whole(LIMIT)
        first = mesh.nodes["n0"]
        target = addresses(first.attach(first.host.container("box")))[0]
        return [join(mesh, lab, number, target) for number in range(rounds)]


def together(count: int) -> tuple[float, float]:
    """J2: seconds until hosts that join at once all reach all, and what it cost of CPU."""
    with Lab("bench: many join") as lab:
        lab.subnet("lan", "192.0.2.0/24")
        mesh = Mesh(lab, lab.host("hub", "lan"))
        mesh.start()
        hosts = [lab.host(f"n{number}", "lan") for number in range(count)]
        token = mesh.coordinator.token("--uses", str(count))
        start, spent = time.monotonic(), _cpu(lab)
        for host in hosts:
            mesh.nodes[host.name] = node = Node(host)
            words = ("sh", "-c", JOIN, PROGRAM, token, host.name)
            node.agent = host.start("agent", *words, env=TALKATIVE)
        for node in mesh:
            wait_until(partial(_reaches, node, count - 1), LIMIT, node.log, pause=PAUSE)
        took, spent = time.monotonic() - start, _cpu(lab) - spent
        for node in mesh:
            shaken = node.host.output("wg", "show", "meshnet0", "latest-handshakes").splitlines()
            assert len(shaken) == count - 1, f"{node} has {len(shaken)} peers"
            assert not [line for line in shaken if line.endswith("\t0")], f"{node}: {shaken}"
        return took, spent


def _reaches(node: Node, count: int) -> bool:
    try:
        return node.status().counts.reachable == count
    except MeshnetError:
        return False


def _cpu(lab: Lab) -> float:
    """Return the CPU seconds of all that runs in the lab, ended children included."""
    ticks = 0
    for pid in all_processes():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if Path(f"/proc/{pid}/ns/pid").stat().st_ino == lab.inode:
                ticks += sum(map(int, fields[11:15]))
        except OSError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


async def simulated(count: int) -> float:
    """J2 with kernels in memory: seconds until all agents reach all."""
    world = await asyncio.to_thread(World)
    try:
        await world.start_coordinator()
        token = await world.token(count)
        start = time.monotonic()
        await world.join(token, [f"n{number}" for number in range(count)])
        for sim in world.nodes.values():
            await until(lambda: _knows(sim) == count - 1, f"{sim.name} reaches all", LIMIT)  # noqa: B023
        return time.monotonic() - start
    finally:
        await world.close()


def _knows(sim: SimNode) -> int:
    return 0 if sim.node is None else len(sim.node.liveness.reachable)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--present", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", type=int, default=20)
    parser.add_argument("--fake", type=int, default=200)
    options = parser.parse_args()
    backend = "kernel" if has_wireguard() else "wireguard-go"
    print(f"WireGuard: {backend}, Linux {os.uname().release}, {os.cpu_count()} cores")
    if options.together:
        took, spent = together(options.together)
        pairs = options.together * (options.together - 1) // 2
        print(
            f"J2 {options.together} join at once → {pairs} pairs   {took:.1f} s, {spent:.1f} s CPU"
        )
    if options.fake:
        took = asyncio.run(simulated(options.fake))
        print(f"J2 {options.fake} agents over kernels in memory   {took:.1f} s")
    if options.present:
        times = among(options.present, options.rounds)
        print(
            f"J1 join typed → first ping, {options.present} nodes present   "
            f"median {statistics.median(times):.2f} s, {min(times):.2f}-{max(times):.2f} s"
        )


if __name__ == "__main__":
    main()
