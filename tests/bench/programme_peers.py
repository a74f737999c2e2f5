"""Programme 1,000 WireGuard peers: our driver ÷ `wg`, on the backend this machine has.

    python -m tests.bench.programme_peers [--peers 1000] [--rounds 9]

Each round has every contender do the same to a fresh device, in an order that turns with the
round. A time is that of the whole step as its user pays it: a process for `wg`, a call for us.
What WireGuard itself costs is in both: `send` shows it, our messages packed beforehand. Most of it
is a Diffie-Hellman per new peer, which WireGuard leaves out while the device has no key; the line
without key therefore compares what is not mathematics.
"""

from __future__ import annotations

import argparse
import base64
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from pathlib import Path

from meshnet.linux.backend import pick_backend
from meshnet.linux.netlink import NETLINK_GENERIC, Netlink, message
from meshnet.linux.wireguard import WireGuard
from meshnet.linux.wireguard_netlink import KernelWireGuard, _family_id, pack_peers
from meshnet.model.addresses import Endpoint
from meshnet.model.keys import PrivateKey, PublicKey
from meshnet.plan.operations import PeerChange
from tests.lab.wireguard_hosts import own_namespaces

DEVICE = "wgb0"
KEY = PrivateKey.from_random(b"bench".ljust(32, b"."))
PORT = 54820


@dataclass(frozen=True)
class Job:
    """What is measured against what: our step, that of `wg`, and what both need before."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    prepare: Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with own_namespaces(), tempfile.TemporaryDirectory(prefix=f"meshnet-{os.getpid()}-") as place:
        wireguard = pick_backend()
        print(f"backend {wireguard.backend}, {platform.release()}, {os.cpu_count()} CPUs")
        try:
            bench(wireguard, make_peers(options.peers), Path(place), options.rounds)
        finally:
            wireguard.remove(DEVICE)


def bench(wireguard: WireGuard, changes: Sequence[PeerChange], place: Path, rounds: int) -> None:
    config = place / "peers.conf"
    config.write_text(render(changes))
    keyless = place / "keyless.conf"
    keyless.write_text(config.read_text().replace(f"PrivateKey = {base64_key()}\n", ""))
    one = changes[len(changes) // 2]
    moved = PeerChange(one.key, endpoint=Endpoint(ip_address("198.51.100.1"), 1), keepalive=25)

    def empty() -> None:
        wireguard.remove(DEVICE)
        wireguard.create(DEVICE, 1420)

    def filled() -> None:
        empty()
        programme(wireguard, changes)

    jobs = [
        Job(
            f"programme {len(changes)} peers",
            lambda: programme(wireguard, changes),
            lambda: wg("setconf", DEVICE, str(config)),
            empty,
        ),
        Job(
            "… without key",
            lambda: wireguard.change_peers(DEVICE, changes),
            lambda: wg("setconf", DEVICE, str(keyless)),
            empty,
        ),
        Job(
            f"change 1 of {len(changes)} peers",
            lambda: wireguard.change_peers(DEVICE, [moved]),
            lambda: wg(
                "set",
                DEVICE,
                "peer",
                str(one.key),
                "endpoint",
                str(moved.endpoint),
                "persistent-keepalive",
                "25",
            ),
            filled,
        ),
        Job(
            f"read {len(changes)} peers",
            lambda: check_count(wireguard, len(changes)),
            lambda: wg("show", DEVICE, "dump"),
            filled,
        ),
    ]
    print(f"{'median ms (min–max)':24}{'ours':>24}{'wg':>24}{'ours ÷ wg':>12}")
    for job in jobs:
        report(job, rounds)
    report_parts(wireguard, changes, empty, rounds)


def report(job: Job, rounds: int) -> None:
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        pair = [(ours, job.ours), (theirs, job.theirs)]
        for times, step in pair if number % 2 else reversed(pair):
            job.prepare()
            times.append(clock(step))
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"{job.name:24}{spread(ours):>24}{spread(theirs):>24}{ratio:>12.2f}")


def report_parts(
    wireguard: WireGuard, changes: Sequence[PeerChange], empty: Callable[[], None], rounds: int
) -> None:
    """Print what of our time is packing, what is the kernel's, and what of `wg`'s is starting."""
    starting = [clock(lambda: wg("--version")) for _ in range(rounds)]
    print(f"of which: start of a `wg` process {spread(starting)} ms")
    if not isinstance(wireguard, KernelWireGuard):
        return
    packing = [clock(lambda: list(pack_peers(DEVICE, changes))) for _ in range(rounds)]
    family = _family_id()
    messages = [message(family, 0, body) for body in pack_peers(DEVICE, changes)]
    sending = []
    for _ in range(rounds):
        empty()
        wireguard.configure(DEVICE, KEY, PORT, 0)
        with Netlink(NETLINK_GENERIC) as netlink:
            sending.append(clock(lambda: netlink.request(messages, str)))
    print(f"          packing by us {spread(packing)} ms, send {spread(sending)} ms")


def make_peers(count: int) -> list[PeerChange]:
    return [
        PeerChange(
            PublicKey(os.urandom(32)),
            add=frozenset({IPv4Network((0x0AD50000 + i, 32)), IPv6Network((0xFD << 120 | i, 128))}),
            endpoint=Endpoint(IPv4Address(0xC6120000 + i), 51820),
            keepalive=25 if i % 2 else 0,
        )
        for i in range(count)
    ]


def programme(wireguard: WireGuard, changes: Sequence[PeerChange]) -> None:
    wireguard.configure(DEVICE, KEY, PORT, 0)
    wireguard.change_peers(DEVICE, changes)


def check_count(wireguard: WireGuard, count: int) -> None:
    device = wireguard.read(DEVICE)
    assert device is not None and len(device.peers) == count


def render(changes: Sequence[PeerChange]) -> str:
    """Write what `wg setconf` reads."""
    lines = ["[Interface]", f"PrivateKey = {base64_key()}", f"ListenPort = {PORT}"]
    for change in changes:
        lines += ["[Peer]", f"PublicKey = {change.key}"]
        lines += [f"AllowedIPs = {', '.join(map(str, change.add))}"]
        lines += [f"Endpoint = {change.endpoint}", f"PersistentKeepalive = {change.keepalive}"]
    return "\n".join([*lines, ""])


def base64_key() -> str:
    return base64.b64encode(KEY.raw).decode()


def wg(*arguments: str) -> None:
    subprocess.run(["wg", *arguments], check=True, stdout=subprocess.DEVNULL)


def clock(step: Callable[[], object]) -> float:
    """Return the milliseconds that `step` takes."""
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1000


def spread(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.1f} ({min(times):.1f}–{max(times):.1f})"


if __name__ == "__main__":
    main()
