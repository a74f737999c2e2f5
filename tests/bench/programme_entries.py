"""N1: 1,000 FDB entries, neighbours and routes into the kernel: our packer ÷ iproute2's batches.

    python -m tests.bench.programme_entries [--entries 1000] [--rounds 15]

Both start from the same values in memory and end when the kernel has acknowledged the last one; for
iproute2 that includes writing its commands and starting the process, as anybody who drives it has
to do. Contenders take turns in random order on a VXLAN device in a namespace of this script's own,
and every round begins with empty tables. Reading back is timed the same way, against `-j` and json.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address

from meshnet.linux import entries
from meshnet.linux import rtnetlink as rt
from meshnet.linux.netlink import Netlink
from meshnet.model.addresses import Address
from tests.lab.kernel_hosts import own_machine, run

TARGET = 0.7


@dataclass(frozen=True)
class Table:
    """One kind of entry: how we and iproute2 write it, read it, and how it is emptied."""

    name: str
    ours: Callable[[], object]
    theirs: tuple[list[str], Callable[[], str]]
    read_ours: Callable[[], int]
    read_theirs: list[str]
    empty: Callable[[], object]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with own_machine():
        run("ip link add under0 type bridge")
        run("ip addr add 10.213.0.1/16 dev under0")
        run("ip link set under0 up")
        run("ip link add vx0 type vxlan id 7 local 10.213.0.1 dstport 14789 nolearning proxy")
        run("ip link set vx0 up")
        with Netlink() as netlink:
            found = [measure(table, options.rounds) for table in tables(netlink, options.entries)]
    print(f"{options.entries} entries, {options.rounds} rounds, median [least–most], ms")
    for row in found:
        print(row)


def tables(netlink: Netlink, number: int) -> list[Table]:
    vxlan = rt.parse_link(netlink.ask(rt.get_link("vx0"), "vx0")[0]).index
    macs = [f"0a:00:00:00:{i // 256:02x}:{i % 256:02x}" for i in range(number)]
    fdb = {mac: IPv4Address("10.213.0.2") + i % 200 for i, mac in enumerate(macs)}
    neighbours: dict[Address, str] = {
        ip_address("10.214.0.2") + i: mac for i, mac in enumerate(macs)
    }
    prefixes = [IPv4Network((int(IPv4Address("10.99.0.0")) + i, 32)) for i in range(number)]
    names = ["a route"] * number
    return [
        Table(
            "FDB",
            lambda: entries.set_fdb(netlink, vxlan, fdb),
            (["bridge", "-batch", "-"], lambda: fdb_batch(fdb)),
            lambda: len(entries.read_fdb(netlink, vxlan).vteps),
            ["bridge", "-j", "fdb", "show", "dev", "vx0"],
            lambda: entries.remove_fdb(netlink, vxlan, fdb),
        ),
        Table(
            "neighbours",
            lambda: entries.set_neighbours(netlink, vxlan, neighbours),
            (["ip", "-batch", "-"], lambda: neighbour_batch(neighbours)),
            lambda: len(entries.read_neighbours(netlink, vxlan)),
            ["ip", "-4", "-j", "neigh", "show", "dev", "vx0"],
            lambda: entries.remove_neighbours(netlink, vxlan, neighbours),
        ),
        Table(
            "routes",
            lambda: netlink.request([rt.pack_route(vxlan, one) for one in prefixes], names),
            (["ip", "-batch", "-"], lambda: route_batch(prefixes)),
            lambda: len([rt.parse_route(b) for b in netlink.dump(rt.dump_routes(2), "routes")]),
            ["ip", "-4", "-j", "route", "show", "proto", "109"],
            lambda: netlink.request(
                [rt.pack_route(vxlan, one, remove=True) for one in prefixes], names
            ),
        ),
    ]


def fdb_batch(fdb: Mapping[str, IPv4Address]) -> str:
    return "".join(f"fdb replace {m} dev vx0 self dst {v}\n" for m, v in fdb.items())


def neighbour_batch(neighbours: Mapping[Address, str]) -> str:
    return "".join(
        f"neigh replace {a} lladdr {m} dev vx0 nud permanent\n" for a, m in neighbours.items()
    )


def route_batch(prefixes: list[IPv4Network]) -> str:
    return "".join(f"route add {p} dev vx0 proto 109 scope link\n" for p in prefixes)


def measure(table: Table, rounds: int) -> str:
    """Return the line of one table."""
    times: dict[str, list[float]] = {key: [] for key in ("ours", "theirs", "r ours", "r theirs")}
    for _ in range(rounds):
        for who in random.sample(["ours", "theirs"], 2):
            write = table.ours if who == "ours" else lambda: batch(table)
            times[who].append(timed(write))
            for reader in random.sample(["r ours", "r theirs"], 2):
                read = table.read_ours if reader == "r ours" else lambda: dump(table)
                times[reader].append(timed(read))
            table.empty()
    wrote, read = ratio(times["ours"], times["theirs"]), ratio(times["r ours"], times["r theirs"])
    return (
        f"{table.name:10} write: ours {show(times['ours'])} iproute2 {show(times['theirs'])} "
        f"ratio {wrote:.2f} (target {TARGET}: {'met' if wrote <= TARGET else 'MISSED'})\n"
        f"{'':10} read:  ours {show(times['r ours'])} iproute2 {show(times['r theirs'])} "
        f"ratio {read:.2f}"
    )


def batch(table: Table) -> None:
    command, text = table.theirs
    subprocess.run(command, input=text(), text=True, check=True)


def dump(table: Table) -> int:
    done = subprocess.run(table.read_theirs, capture_output=True, text=True, check=True)
    return len(json.loads(done.stdout))


def timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1000


def ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(ours) / statistics.median(theirs)


def show(values: list[float]) -> str:
    return f"{statistics.median(values):5.1f} [{min(values):.1f}–{max(values):.1f}]"


if __name__ == "__main__":
    main()
