"""DNS: our process ÷ dnsmasq ÷ unbound, on one core each, in the same run.

    python -m tests.bench.dns [--rounds 5] [--seconds 3] [--services 1000]

Every server has 1,000 services of three A records and rotates them, is pinned to the first core and
answers on loopback; the generator (dns_load.c, compiled on the fly) has the second core. Contenders
take turns in random order. Ours is fed by `DnsFeed` from a real view, so what is asked lies among
all the other names a mesh has.

Four figures: questions a second with 128 under way; latency at 2,000 a second; the same beside a
process that uses the servers' core up; and what is lost of 1,000 a second during 20 changes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from meshnet.dns.feed import DnsFeed
from meshnet.dns.table import HOST
from meshnet.dns.zone import Zones
from meshnet.model.records import Attachment, Instance
from meshnet.model.view import Node
from tests.pure.dns_world import attachment, instance, node, node_id, view

HERE = "127.0.0.1"
FIRST = IPv4Address("10.214.1.0")
PORTS = {
    name: 20000 + (os.getpid() * 3 + at) % 30000
    for at, name in enumerate(("meshnet", "dnsmasq", "unbound"))
}
INSTANCES = 3
PER_NODE = 100


@dataclass(frozen=True)
class Load:
    """What one run of the generator saw. Times in microseconds."""

    sent: int
    answered: int
    wrong: int
    seconds: float
    p50: int
    p90: int
    p99: int
    worst: int

    @property
    def rate(self) -> float:
        return self.answered / self.seconds

    @property
    def lost(self) -> int:
        return self.sent - self.answered


@dataclass(frozen=True)
class Contender:
    """A server that runs. `change` alters one of its answers and returns when that is done."""

    name: str
    port: int
    pid: int
    change: Callable[[int], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--services", type=int, default=1000)
    options = parser.parse_args()
    print(f"{platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"dns{os.getpid()}-")))
        generator = Generator(place, options.services)
        makers = {"dnsmasq": dnsmasq, "unbound": unbound}
        contenders = [stack.enter_context(ours(place, options.services))]
        for name, maker in makers.items():
            if shutil.which(name):
                contenders.append(stack.enter_context(maker(place, options.services)))
            else:
                print(f"NOT MEASURED: {name} is not installed")
        for contender in contenders:
            os.sched_setaffinity(contender.pid, {0})
        bench(generator, contenders, options.rounds, options.seconds)


def bench(generator: Generator, contenders: list[Contender], rounds: int, seconds: float) -> None:
    def saturate(contender: Contender) -> Load:
        return generator.run(contender, seconds)

    def at_leisure(contender: Contender) -> Load:
        return generator.run(contender, seconds, rate=2000)

    def beside_a_busy_process(contender: Contender) -> Load:
        with busy_core():
            return generator.run(contender, seconds, rate=2000)

    def while_changing(contender: Contender) -> Load:
        return changing(generator, contender)

    report("questions a second, 128 under way", rounds, contenders, saturate, "rate")
    report("µs p50 at 2,000 a second", rounds, contenders, at_leisure, "p50", "p99")
    title = "µs p50 at 2,000 a second beside a process that uses the core up"
    report(title, rounds, contenders, beside_a_busy_process, "p50", "p99")
    report("lost of 1,000 a second, 20 changes", 2, contenders, while_changing, "lost", "wrong")
    for contender in contenders:
        print(f"resident {contender.name:10} {resident(contender.pid) / 1000:7.1f} MB")


def report(
    title: str,
    rounds: int,
    contenders: list[Contender],
    measure: Callable[[Contender], Load],
    *fields: str,
) -> None:
    """Measure in turns and print medians, spread and the ratio to each of the others."""
    seen: dict[str, list[Load]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in random.sample(contenders, len(contenders)):
            load = measure(contender)
            if load.wrong and "wrong" not in fields:
                raise SystemExit(f"{contender.name} gave {load.wrong} wrong answers")
            seen[contender.name].append(load)
    for field in fields:
        values = {name: [getattr(load, field) for load in loads] for name, loads in seen.items()}
        print(f"\n{title}" if field == fields[0] else f"  … {field}")
        for name, found in values.items():
            print(f"  {name:10} {statistics.median(found):10,.0f}  {ratios(values, name)}")


def ratios(values: dict[str, list[float]], name: str) -> str:
    """Return `name` ÷ each other contender: median of the rounds' ratios and their spread."""
    texts = []
    for other, theirs in values.items():
        found = [a / b for a, b in zip(values[name], theirs, strict=True) if b]
        if other != name and found:
            spread = f"{min(found):.2f}–{max(found):.2f}"
            texts.append(f"÷ {other} {statistics.median(found):.2f} [{spread}]")
    return "  ".join(texts)


class Generator:
    """The load generator, compiled and pinned to the second core."""

    def __init__(self, place: Path, services: int) -> None:
        self._program = place / "dns_load"
        self._services = services
        source = Path(__file__).with_name("dns_load.c")
        subprocess.run(["gcc", "-O2", "-o", self._program, source], check=True)

    def run(self, contender: Contender, seconds: float, rate: int = 0) -> Load:
        words = (HERE, contender.port, seconds, 128, rate, self._services)
        command = [str(self._program), *map(str, words)]
        if (os.cpu_count() or 1) > 1:
            command = ["taskset", "-c", "1", *command]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        sent, answered, wrong, *times = (float(word) for word in found)
        took, *micros = times
        return Load(int(sent), int(answered), int(wrong), took, *map(int, micros))


def changing(generator: Generator, contender: Contender) -> Load:
    """Load at 1,000 a second for five seconds, and twenty changes meanwhile."""
    loads: list[Load] = []
    thread = threading.Thread(target=lambda: loads.append(generator.run(contender, 5.0, 1000)))
    thread.start()
    for number in range(20):
        time.sleep(0.2)
        contender.change(number)
    thread.join()
    return loads[0]


@contextmanager
def busy_core() -> Iterator[None]:
    """A process that computes all the time on the servers' core, as an agent might for a while."""
    work = [sys.executable, "-c", "while True: sum(range(1000))"]
    process = subprocess.Popen(work, start_new_session=True)
    os.sched_setaffinity(process.pid, {0})
    try:
        yield
    finally:
        process.kill()
        process.wait()


def addresses(service: int, shift: int = 0) -> list[IPv4Address]:
    return [FIRST + (INSTANCES * service + at + shift) for at in range(INSTANCES)]


def resident(pid: int) -> int:
    """Resident memory in kB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


@contextmanager
def ours(place: Path, services: int) -> Iterator[Contender]:
    """Our process, fed by DnsFeed from the view of a mesh, as an agent does it."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    feed = DnsFeed(place / "dns.sock")
    zones = Zones(node_id(1))
    nodes = mesh(services)

    async def begin() -> None:
        await feed.start()
        await publish(0)
        await feed.listen(HOST, HERE, PORTS["meshnet"])

    async def publish(number: int) -> None:
        nodes[0] = first_node(services, shift=number % 2 * 20000)
        world = view(*nodes)
        await feed.publish(zones.update(world, [one.id for one in nodes], ()))

    def change(number: int) -> None:
        asyncio.run_coroutine_threadsafe(publish(number), loop).result(30)

    asyncio.run_coroutine_threadsafe(begin(), loop).result(60)
    assert feed.pid is not None
    assert feed.error == "", feed.error
    try:
        yield Contender("meshnet", PORTS["meshnet"], feed.pid, change)
    finally:
        asyncio.run_coroutine_threadsafe(feed.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)


def mesh(services: int) -> list[Node]:
    """A mesh that offers all services, three instances of each, a hundred instances on a node."""
    nodes = [first_node(services)]
    for number in range(2, INSTANCES * services // PER_NODE + 1):
        nodes.append(node(number, *things(number, services, 0)))
    return nodes


def first_node(services: int, shift: int = 0) -> Node:
    """The node whose instances move: all its addresses are `shift` further on."""
    return node(1, *things(1, services, shift))


def things(number: int, services: int, shift: int) -> Iterator[Attachment | Instance]:
    for at in range((number - 1) * PER_NODE, number * PER_NODE):
        yield attachment("default", f"c{at}", str(FIRST + (at + shift)))
        yield instance("default", f"s{at // INSTANCES}", f"c{at}")


@contextmanager
def dnsmasq(place: Path, services: int) -> Iterator[Contender]:
    """dnsmasq with a hosts file, read again on SIGHUP."""
    hosts = place / "hosts"
    write_hosts(hosts, services)
    words = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]
    words += [f"--addn-hosts={hosts}", f"--port={PORTS['dnsmasq']}", f"--listen-address={HERE}"]
    words += ["--bind-interfaces", "--local=/mesh/", "--local-ttl=5", "--cache-size=10000"]
    words += ["--pid-file=", "--user=root"]
    with server(["dnsmasq", *words], "dnsmasq") as process:

        def change(number: int) -> None:
            write_hosts(hosts, services, shift=number % 2 * 20000)
            process.send_signal(signal.SIGHUP)

        yield Contender("dnsmasq", PORTS["dnsmasq"], process.pid, change)


def write_hosts(path: Path, services: int, shift: int = 0) -> None:
    lines = [
        f"{address} s{service}.mesh\n"
        for service in range(services)
        for address in addresses(service, 0 if service else shift)
    ]
    path.write_text("".join(lines))


@contextmanager
def unbound(place: Path, services: int) -> Iterator[Contender]:
    """unbound with local data, changed by its control socket."""
    config, control = place / "unbound.conf", place / "unbound.sock"
    config.write_text(unbound_config(control, services))

    def tell(*words: str) -> None:
        command = ["unbound-control", "-c", str(config), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def change(number: int) -> None:
        tell("local_data_remove", "s0.mesh")
        for address in addresses(0, number % 2 * 20000):
            tell("local_data", "s0.mesh", "5", "IN", "A", str(address))

    with server(["unbound", "-d", "-c", str(config)], "unbound") as process:
        yield Contender("unbound", PORTS["unbound"], process.pid, change)


def unbound_config(control: Path, services: int) -> str:
    lines = [
        "server:",
        *('  chroot: ""', '  username: ""', '  pidfile: ""', '  logfile: "/dev/null"'),
        *("  use-syslog: no", "  do-daemonize: no", "  num-threads: 1", "  verbosity: 0"),
        *("  rrset-roundrobin: yes", '  module-config: "iterator"', "  minimal-responses: yes"),
        *(f"  interface: {HERE}@{PORTS['unbound']}", "  access-control: 127.0.0.0/8 allow"),
        '  local-zone: "mesh." static',
        *(
            f'  local-data: "s{service}.mesh. 5 IN A {address}"'
            for service in range(services)
            for address in addresses(service)
        ),
        "remote-control:",
        *("  control-enable: yes", "  control-use-cert: no", f"  control-interface: {control}"),
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def server(command: list[str], name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers, until the end of the block."""
    # A session of its own, as ours has: the scheduler shares out time by sessions.
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 15
        while subprocess.run(asking(PORTS[name]), capture_output=True, check=False).stdout == b"":
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} does not answer: {' '.join(command)}")
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


def asking(port: int) -> list[str]:
    return ["dig", f"@{HERE}", "-p", str(port), "+short", "+time=1", "+tries=1", "s0.mesh"]


if __name__ == "__main__":
    main()
