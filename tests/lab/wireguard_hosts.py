"""Hosts for the WireGuard contract: one in memory, and namespaces of this machine.

Each real host is a network and a mount namespace of its own, with an empty /run/wireguard.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from meshnet.errors import Unavailable
from meshnet.linux.wireguard import Device, WireGuard
from meshnet.linux.wireguard_base import RealWireGuard
from meshnet.linux.wireguard_link import find_link
from meshnet.linux.wireguard_netlink import KernelWireGuard
from meshnet.linux.wireguard_uapi import SOCKETS, WireGuardGo
from meshnet.model.addresses import Endpoint
from meshnet.model.keys import PrivateKey, PublicKey
from meshnet.plan.operations import PeerChange
from tests.fakes.wireguard import FakeWireGuard

DEVICE = "wgc0"
OTHER = "wgc1"
MTU = 1400

OURS = PrivateKey.from_random(b"our device".ljust(32, b"."))
ANN = PrivateKey.from_random(b"ann".ljust(32, b"."))
BEN = PrivateKey.from_random(b"ben".ljust(32, b"."))
NAMES = {ANN.public: "ann", BEN.public: "ben", OURS.public: "us"}

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18

libc = ctypes.CDLL(None, use_errno=True)


class FakeHost:
    """A host whose kernel is in memory."""

    def __init__(self) -> None:
        self.wireguard = FakeWireGuard()

    def hold_port(self, port: int) -> None:
        self.wireguard.held_ports.add(port)

    def set_up(self, name: str) -> None:
        """The fake's devices need not go up."""

    def add_foreign_link(self, name: str) -> None:
        self.wireguard.add_foreign_link(name)

    def add_unmarked_device(self, name: str) -> None:
        self.wireguard.add_unmarked_device(name)

    def has_link(self, name: str) -> bool:
        return self.wireguard.has_link(name)

    def mtu(self, name: str) -> int:
        return self.wireguard.mtu(name)

    def shake_hands(self, name: str, key: PublicKey, source: Endpoint) -> None:
        self.wireguard.shake_hands(name, key, time.time(), source)


class RealHost:
    """The namespaces of one scene."""

    def __init__(self, wireguard: RealWireGuard) -> None:
        self.wireguard = wireguard
        self._sockets: list[socket.socket] = []

    def hold_port(self, port: int) -> None:
        holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        holder.bind(("0.0.0.0", port))
        self._sockets.append(holder)

    def set_up(self, name: str) -> None:
        run("ip", "link", "set", name, "up")

    def add_foreign_link(self, name: str) -> None:
        run("ip", "link", "add", name, "type", "bridge")

    def add_unmarked_device(self, name: str) -> None:
        self.wireguard._make(name)

    def has_link(self, name: str) -> bool:
        return find_link(name) is not None

    def mtu(self, name: str) -> int:
        link = find_link(name)
        assert link is not None
        return link.mtu

    def shake_hands(self, name: str, key: PublicKey, source: Endpoint) -> None:
        """Let ann run beside us and speak first, from `source`."""
        self.set_up("lo")
        self.set_up(name)
        device = self.wireguard.read(name)
        assert device is not None and key == ANN.public
        target = Endpoint(ip_address("127.0.0.1"), device.listen_port)
        self.wireguard.create(OTHER, MTU)
        self.wireguard.configure(OTHER, ANN, source.port, 0)
        self.set_up(OTHER)
        peer = PeerChange(OURS.public, endpoint=target, keepalive=1)
        self.wireguard.change_peers(OTHER, [peer])

    def close(self) -> None:
        for holder in self._sockets:
            holder.close()
        for name in (DEVICE, OTHER):
            link = find_link(name)
            if link is not None and link.kind == self.wireguard.kind:
                self.wireguard.remove(name)


Host = FakeHost | RealHost


def needs_root() -> None:
    """Skip, loudly, where namespaces cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: needs root to make namespaces")


@contextmanager
def own_namespaces() -> Iterator[None]:
    """Move the calling thread into new namespaces of network and mounts, and back."""
    kinds = {"net": CLONE_NEWNET, "mnt": CLONE_NEWNS}
    home = {kind: os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in kinds}
    where = Path.cwd()
    check(libc.unshare(CLONE_NEWNET | CLONE_NEWNS))
    try:
        check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
        SOCKETS.mkdir(mode=0o700, exist_ok=True)
        check(libc.mount(b"tmpfs", os.fsencode(SOCKETS), b"tmpfs", 0, None))
        yield
    finally:
        for kind, descriptor in home.items():
            check(libc.setns(descriptor, kinds[kind]))
            os.close(descriptor)
        os.chdir(where)


def make_backend(name: str) -> RealWireGuard:
    if name == "wireguard-go":
        backend: RealWireGuard = WireGuardGo()
        try:
            assert backend.backend
        except Unavailable as error:
            pytest.skip(f"WIREGUARD-GO NOT TESTED: {error.message}; {error.hint}")
        return backend
    if not KernelWireGuard.is_supported():
        pytest.skip("KERNEL WIREGUARD NOT TESTED: this kernel has none; run in a guest kernel")
    backend = KernelWireGuard()
    if name != "kernel":
        # What a kernel before 6.16 makes it find out.
        backend._removes_singly = False
    return backend


def read(wireguard: WireGuard, name: str = DEVICE) -> Device:
    device = wireguard.read(name)
    assert device is not None, f"no device {name}"
    return device


def show(device: Device) -> str:
    """Render a device as text, one line a peer, sorted."""
    own = NAMES[device.private_key.public] if device.private_key else "without key"
    lines = [f"device {own} port {device.listen_port}"]
    lines[0] += f" fwmark {device.fwmark:#x}" if device.fwmark else ""
    for key, peer in device.peers.items():
        words = [NAMES[key], *sorted(str(prefix) for prefix in peer.allowed_ips)]
        words += [f"at {peer.endpoint}"] if peer.endpoint else []
        words += [f"keepalive {peer.keepalive}"] if peer.keepalive else []
        words += ["preshared"] if peer.preshared_key else []
        lines.append(" ".join(words))
    return "\n".join([lines[0], *sorted(lines[1:])])


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
