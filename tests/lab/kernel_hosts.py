"""Hosts for the contract of the kernel port: one in memory, and namespaces of this machine.

A real host is a network and a mount namespace of its own with an empty /run, so nothing it makes
outlives it. What happens to it behind the driver's back is done with `ip`, `bridge` and `nft`, by
other people's code than ours.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from meshnet.linux.backend import pick_backend
from meshnet.linux.kernel import LinuxKernel
from meshnet.linux.port import Kernel
from meshnet.model.addresses import Address, Interface, Prefix
from meshnet.plan.state import NETNS_PREFIX
from tests.fakes.kernel import FakeKernel
from tests.lab.waiting import wait_until

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
TUNNEL = "meshnet0"

libc = ctypes.CDLL(None, use_errno=True)


class FakeHost:
    """A host whose kernel is in memory."""

    def __init__(self) -> None:
        self.fake = FakeKernel(tunnel_name=TUNNEL)
        self.kernel: Kernel = self.fake

    def start_container(self, name: str) -> tuple[str, int]:
        path = f"/run/netns/{name}"
        return path, self.fake.start_container(path)

    def end_container(self, name: str) -> None:
        self.fake.end_container(f"/run/netns/{name}")

    def delete_link(self, network: str, link: str) -> None:
        self.fake.delete_link(network, link)

    def set_down(self, network: str, link: str) -> None:
        self.fake.set_down(network, link)

    def lose_name(self, network: str) -> None:
        self.fake.lose_name(network)

    def set_entry(self, network: str, mac: str, vtep: IPv4Address | None) -> None:
        self.fake.set_entry(network, mac, vtep)

    def set_neighbour(self, network: str, address: Address, mac: str | None) -> None:
        self.fake.set_neighbour(network, address, mac)

    def remove_port_address(self, network: str, port: str, address: Interface) -> None:
        self.fake.remove_port_address(network, port, address)

    def allow_source(self, network: str, port: str, address: Address) -> None:
        self.fake.allow_source(network, port, address)

    def delete_source_guard(self, network: str) -> None:
        self.fake.delete_source_guard(network)

    def remove_tunnel_address(self, address: Interface) -> None:
        self.fake.remove_tunnel_address(address)

    def remove_tunnel_route(self, prefix: Prefix) -> None:
        self.fake.remove_tunnel_route(prefix)

    def forge_guard(self) -> None:
        self.fake.forge_guard()

    def delete_guard(self) -> None:
        self.fake.delete_guard()

    def add_foreign_route(self, prefix: Prefix) -> None:
        self.fake.foreign_routes.add(prefix)

    def add_foreign_interface(self, container: str, interface: str) -> None:
        self.fake.foreign_interfaces.add((f"/run/netns/{container}", interface))

    def restart(self) -> None:
        """Nothing of the driver outlives an agent; the fake's memory is the kernel's."""


class RealHost:
    """The namespaces of one scene."""

    def __init__(self) -> None:
        self._real = LinuxKernel(pick_backend(), TUNNEL)
        self.kernel: Kernel = self._real

    def restart(self) -> None:
        """End the driver and start another one, as an agent's restart does."""
        self._real.close()
        self._real = LinuxKernel(pick_backend(), TUNNEL)
        self.kernel = self._real

    def start_container(self, name: str) -> tuple[str, int]:
        run(f"ip netns add {name}")
        path = f"/run/netns/{name}"
        return path, Path(path).stat().st_ino

    def end_container(self, name: str) -> None:
        run(f"ip netns del {name}")

    def delete_link(self, network: str, link: str) -> None:
        self._in(network, f"ip link del {link}")

    def set_down(self, network: str, link: str) -> None:
        self._in(network, f"ip link set {link} down")

    def lose_name(self, network: str) -> None:
        run(f"ip netns del {NETNS_PREFIX}{network}")

    def set_entry(self, network: str, mac: str, vtep: IPv4Address | None) -> None:
        verb = "del" if vtep is None else "replace"
        target = "" if vtep is None else f"dst {vtep}"
        self._in(network, f"bridge fdb {verb} {mac} dev vx0 self {target}")

    def set_neighbour(self, network: str, address: Address, mac: str | None) -> None:
        if mac is None:
            self._in(network, f"ip neigh del {address} dev vx0")
        else:
            self._in(network, f"ip neigh replace {address} lladdr {mac} dev vx0 nud permanent")

    def remove_port_address(self, network: str, port: str, address: Interface) -> None:
        inside = self.kernel.read([network], tunnel=False).segments[network].ports[port]
        where = f"nsenter --net={inside.netns}" if inside.netns else ""
        run(f"{where} ip addr del {address} dev {inside.interface}")

    def allow_source(self, network: str, port: str, address: Address) -> None:
        mac = self.kernel.read([network], tunnel=False).segments[network].ports[port].mac
        own = f"own{address.version} {{ {port} . {mac} . {address} }}"
        self._in(network, f"nft add element bridge meshnet {own}")

    def delete_source_guard(self, network: str) -> None:
        self._in(network, "nft delete table bridge meshnet")

    def remove_tunnel_address(self, address: Interface) -> None:
        run(f"ip addr del {address} dev {TUNNEL}")

    def remove_tunnel_route(self, prefix: Prefix) -> None:
        run(f"ip route del {prefix} dev {TUNNEL}")

    def forge_guard(self) -> None:
        run("nft insert rule inet meshnet output udp dport 14789 accept")

    def delete_guard(self) -> None:
        run("nft delete table inet meshnet")

    def add_foreign_route(self, prefix: Prefix) -> None:
        run("ip link add foreign0 type bridge")
        run("ip link set foreign0 up")
        run(f"ip route add {prefix} dev foreign0")

    def add_foreign_interface(self, container: str, interface: str) -> None:
        run(f"ip -n {container} link add {interface} type bridge")

    def close(self) -> None:
        self.kernel.purge()
        self._real.close()

    def _in(self, network: str, command: str) -> None:
        run(f"ip netns exec {NETNS_PREFIX}{network} {command}")


Machine = FakeHost | RealHost


@contextmanager
def own_machine() -> Iterator[None]:
    """Move the calling thread into new namespaces of network and mounts, /run empty, and back."""
    kinds = {"net": CLONE_NEWNET, "mnt": CLONE_NEWNS}
    home = {kind: os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in kinds}
    where = Path.cwd()
    check(libc.unshare(CLONE_NEWNET | CLONE_NEWNS))
    try:
        check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
        check(libc.mount(b"tmpfs", b"/run", b"tmpfs", 0, None))
        run("ip link set lo up")
        yield
    finally:
        for kind, descriptor in home.items():
            go_back(descriptor, kinds[kind])
            os.close(descriptor)
        os.chdir(where)


def go_back(descriptor: int, kind: int) -> None:
    """Enter a namespace again.

    That of mounts is closed to us (EINVAL) while a thread shares our working directory, and one
    that was joined does so for the moment until the kernel has put it away.
    """
    wait_until(lambda: libc.setns(descriptor, kind) == 0, 10, "back home", pause=0.001)


def dump() -> str:
    """Return all that a host has: links, addresses, routes, rules, nft, names of namespaces."""
    commands = (
        "ip link",
        "ip addr",
        "ip route show table all",
        "ip -6 route show table all",
        "ip rule",
        "nft list ruleset",
        "ls /run/netns",
        "ss -lunp",
    )
    return "\n".join(f"$ {command}\n{run(command, check=False)}" for command in commands)


def run(command: str, *, check: bool = True) -> str:
    """Run a command; return what it says. AssertionError with that when it fails."""
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=30, check=False)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
