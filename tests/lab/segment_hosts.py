"""Two hosts on a plain wire, their kernels driven by us, and an eye on what goes over the wire.

      c1, c2, …                                          c1, c2, …
        │  network red of ann                              │  network red of ben
      ann 10.213.0.1 ── wire0 ═════ MTU 1420 ═════ wire0 ── ben 10.213.0.2

The mesh addresses are on the wire itself, so what is seen there are the VXLAN packets that a
tunnel would carry. Both hosts share our mounts, so a network's namespace bears the host's name.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_interface
from pathlib import Path

from meshnet.linux.backend import pick_backend
from meshnet.linux.kernel import LinuxKernel
from meshnet.linux.netlink import in_namespace
from meshnet.linux.port import Kernel
from meshnet.model.addresses import Address, attachment_mac, gateway_mac, vtep_mac
from meshnet.plan import operations as op
from meshnet.plan.state import Port, Segment
from tests.lab.frames import VXLAN_PORT, vxlan_header
from tests.lab.kernel_hosts import own_machine, run
from tests.lab.waiting import wait_until

UNDERLAY_MTU = 1420
MTU = UNDERLAY_MTU - 50
ETHERNET, VXLAN_HEADER = 14, 8
KINDS = {0x0806: "arp", 0x0800: "ipv4", 0x86DD: "ipv6"}
SOLICITATION, ADVERTISEMENT = 135, 136
IGMP, HOP_BY_HOP = 2, 0
FENCE = b"fence"
"""Payload of a ping that is sent after all else: when it has come, so has all that will."""


class Container:
    """A namespace with one interface on one network."""

    def __init__(self, host: SegmentHost, network: str, name: str, number: int) -> None:
        self.netns = f"{host.name}-{name}"
        run(f"ip netns add {self.netns}")
        run(f"ip -n {self.netns} link set lo up")
        path = f"/run/netns/{self.netns}"
        self.address4 = ip_interface(f"10.214.0.{number}/16")
        self.address6 = ip_interface(f"fd00:1::{number}/64")
        self.addresses: tuple[Address, Address] = self.address4.ip, self.address6.ip
        self.mac = attachment_mac(host.vni(network), self.address4.ip)
        self.veth = "p" + self.mac.replace(":", "")
        self.port = Port(
            netns=path,
            inode=Path(path).stat().st_ino,
            interface="mesh0",
            mac=self.mac,
            mtu=MTU,
            addresses=frozenset({self.address4, self.address6}),
            sources=frozenset(self.addresses),
        )
        host.kernel.apply(op.SetPort(host.local_name(network), self.veth, self.port))

    def ping(self, target: object, *, size: int = 56, count: int = 3) -> bool:
        """Say whether every ping of `size` payload bytes is answered; none may be fragmented."""
        words = f"ping -n -M do -i 0.05 -W 1 -c {count} -s {size} {target}"
        done = self._run(words)
        self.said = done.stdout + done.stderr
        return done.returncode == 0 and " 0% packet loss" in done.stdout

    def send_fence(self, target: Address) -> None:
        """Send a ping that a Wire knows."""
        self.run(f"ping -n -q -W 2 -c 1 -p {FENCE.hex()} {target}")

    def send(self, frame: bytes) -> None:
        """Send a frame as it is, past the container's own IP."""

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
                sock.bind(("mesh0", 0))
                sock.send(frame)

        in_namespace(f"/run/netns/{self.netns}", send)

    def full(self, target: Address) -> int:
        """Return the payload of a ping that fills the MTU."""
        return MTU - (28 if target.version == 4 else 48)

    def neighbours(self) -> dict[str, str]:
        """Return address → MAC as this container has resolved them."""
        lines = self.run("ip neigh show").splitlines()
        words = [line.split() for line in lines if " lladdr " in line]
        return {line[0]: line[line.index("lladdr") + 1] for line in words}

    def run(self, command: str) -> str:
        done = self._run(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        words = ["ip", "netns", "exec", self.netns, *command.split()]
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)


class SegmentHost:
    """One host, driven by the real kernel driver."""

    def __init__(self, name: str, local: str) -> None:
        self.name = name
        self.local = IPv4Address(local)
        self.networks: dict[str, int] = {}
        self.path = f"/run/netns/{name}"
        self.kernel: Kernel = in_namespace(self.path, lambda: LinuxKernel(pick_backend()))

    def local_name(self, network: str) -> str:
        return f"{self.name}-{network}"

    def vni(self, network: str) -> int:
        return self.networks[network]

    def build(self, network: str, vni: int) -> None:
        self.networks[network] = vni
        segment = Segment(
            vni=vni,
            mtu=MTU,
            local=self.local,
            vtep_mac=vtep_mac(vni, self.name),
            gateway_mac=gateway_mac(vni),
            gateways=frozenset({ip_interface("10.214.0.1/16"), ip_interface("fd00:1::1/64")}),
        )
        self.kernel.apply(op.BuildSegment(self.local_name(network), segment))

    def know(self, network: str, container: Container, vtep: IPv4Address) -> None:
        """Enter a container of the other host."""
        name = self.local_name(network)
        self.kernel.apply(op.SetFdb(name, {container.mac: vtep}))
        neighbours = dict.fromkeys(container.addresses, container.mac)
        self.kernel.apply(op.SetNeighbours(name, neighbours))

    def send_vxlan(self, vtep: IPv4Address, vni: int, frame: bytes) -> None:
        """Send a frame in VXLAN by hand, as a host could that obeys nobody."""

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((str(self.local), 0))
                sock.sendto(vxlan_header(vni) + frame, (str(vtep), VXLAN_PORT))

        in_namespace(self.path, send)

    def close(self) -> None:
        for network in self.networks:
            self.kernel.apply(op.RemoveSegment(self.local_name(network)))
        assert isinstance(self.kernel, LinuxKernel)
        self.kernel.close()


class Wire:
    """What goes over an interface from now on: a raw socket that sees every frame."""

    def __init__(self, netns: str, interface: str) -> None:
        def listen() -> socket.socket:
            return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))

        self._socket = in_namespace(f"/run/netns/{netns}", listen)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 8 * 2**20)
        self._socket.bind((interface, 3))
        self._socket.setblocking(False)
        self._seen: list[bytes] = []

    def frames(self) -> list[bytes]:
        """Return the frames since the last call, without groups that hosts join and fences."""
        found = [*self._seen, *self._drain()]
        self._seen.clear()
        return [one for one in found if kind_of(one) != "group" and FENCE not in one]

    def wait_for_fence(self) -> None:
        """Wait until a ping with FENCE in it came by."""

        def is_here() -> bool:
            self._seen += self._drain()
            return any(FENCE in frame for frame in self._seen)

        wait_until(is_here, 10, "the fence came by")

    def _drain(self) -> list[bytes]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(65536))
        return found

    def inner(self) -> Counter[str]:
        """Count what VXLAN packets carried since the last call, and other packets of IPv4."""
        return Counter(kind for frame in self.frames() if (kind := _inner_kind(frame)))

    def close(self) -> None:
        self._socket.close()


def kind_of(frame: bytes) -> str:
    """Return arp, nd, group (IGMP and MLD), ipv4, ipv6 or other for an Ethernet frame."""
    kind = KINDS.get(int.from_bytes(frame[12:14], "big"), "other")
    if kind == "ipv4" and frame[ETHERNET + 9] == IGMP:
        return "group"
    if kind == "ipv6" and frame[ETHERNET + 6] == HOP_BY_HOP:
        return "group"
    if kind == "ipv6" and frame[20] == 58 and frame[54] in (SOLICITATION, ADVERTISEMENT):
        return "nd"
    return kind


def _inner_kind(frame: bytes) -> str:
    if kind_of(frame) != "ipv4":
        return ""
    udp = ETHERNET + (frame[ETHERNET] & 15) * 4
    if frame[ETHERNET + 9] != 17 or frame[udp + 2 : udp + 4] != VXLAN_PORT.to_bytes(2, "big"):
        return "not vxlan"
    return kind_of(frame[udp + 8 + VXLAN_HEADER :])


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[SegmentHost, SegmentHost]]:
    """Yield ann and ben on a wire; everything ends with the block."""
    with own_machine():
        for name in ("ann", "ben"):
            run(f"ip netns add {name}")
            run(f"ip -n {name} link set lo up")
        run("ip -n ann link add wire0 type veth peer name wire0 netns ben")
        for name, address in (("ann", "10.213.0.1"), ("ben", "10.213.0.2")):
            run(f"ip -n {name} addr add {address}/24 dev wire0")
            run(f"ip -n {name} link set wire0 mtu {UNDERLAY_MTU} up")
        hosts = SegmentHost("ann", "10.213.0.1"), SegmentHost("ben", "10.213.0.2")
        try:
            yield hosts
        finally:
            for host in hosts:
                host.close()
