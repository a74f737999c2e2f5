"""Shell. The lab itself: subnets, the links on them, the drawing, and the check at the end.

Every subnet is a bridge on a router with the first address of each prefix; a link is a veth pair
from that bridge to a host. All routers are joined where they share a subnet. What is declared is
there at once; what was made is gone when the lab closes, and that is asserted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from types import TracebackType
from typing import ClassVar, TypeVar

from tests.lab.capture import Capture
from tests.lab.hosts import Host, Router
from tests.lab.place import Place, all_processes
from tests.lab.spawn import Where
from tests.lab.waiting import wait_until

Address = IPv4Address | IPv6Address
Family = TypeVar("Family", IPv4Address, IPv6Address)
BACKBONE = "internet"
"""The router that subnets hang on unless they name another."""

UNSHARE = ("unshare", "--pid", "--fork", "--net", "--mount-proc", "--propagation", "private", "--")


class Link:
    """A cable between a host's interface and a subnet's bridge."""

    def __init__(self, subnet: Subnet, place: Place, interface: str, port: str, mtu: int) -> None:
        self.subnet = subnet
        self.place = place
        self.interface = interface
        self.port = port
        self.mtu = mtu
        self.quality = ""
        self.addresses = subnet.next_addresses()
        self.build()

    def build(self) -> None:
        """Lay the cable: both ends up, addresses and default routes at the host's end."""
        far = f"name {self.interface} mtu {self.mtu} netns {self.place.inner_pid}"
        self.subnet.router.ip(
            f"link add {self.port} mtu {self.mtu} type veth peer {far}",
            f"link set {self.port} master {self.subnet.bridge} up",
        )
        lengths = [prefix.prefixlen for prefix in self.subnet.prefixes]
        self.place.ip(
            *(
                f"addr add {address}/{length} dev {self.interface}"
                + (" nodad" if address.version == 6 else "")
                for address, length in zip(self.addresses, lengths, strict=True)
            ),
            f"link set {self.interface} up",
            *(
                f"route add default via {gateway} dev {self.interface} metric {self.metric}"
                for gateway in self.subnet.gateways
            ),
        )
        if self.quality:
            self.impair(self.quality)

    def impair(self, quality: str) -> None:
        """Delay or lose what passes, each way: `delay 20ms loss 1%`, as tc-netem(8) reads it."""
        self.quality = quality
        for place, interface in ((self.subnet.router, self.port), (self.place, self.interface)):
            place.run("tc", "qdisc", "replace", "dev", interface, "root", "netem", *quality.split())

    def remove(self) -> None:
        """Take the cable away; `build` lays it again."""
        self.subnet.router.ip(f"link del {self.port}")

    @property
    def metric(self) -> int:
        """A host's first link is its best."""
        return 100 + int(self.interface.removeprefix("eth"))

    def address(self, family: type[Family]) -> Family:
        """Return the host's address of a family on this link."""
        return next(address for address in self.addresses if isinstance(address, family))

    def cut(self) -> None:
        """Let nothing through, without either end noticing: a cut somewhere in the middle."""
        self.subnet.router.run("bridge", "link", "set", "dev", self.port, "state", "0")

    def restore(self) -> None:
        self.subnet.router.run("bridge", "link", "set", "dev", self.port, "state", "3")

    def unplug(self) -> None:
        """Pull the cable: the host loses the carrier."""
        self.subnet.router.ip(f"link set {self.port} down")

    def plug(self) -> None:
        self.subnet.router.ip(f"link set {self.port} up")

    def set_mtu(self, mtu: int) -> None:
        self.mtu = mtu
        self.subnet.router.ip(f"link set {self.port} mtu {mtu}")
        self.place.ip(f"link set {self.interface} mtu {mtu}")

    def capture(self, *expression: str) -> Capture:
        """Listen on the cable; `expression` is a filter of pcap-filter(7)."""
        return Capture(self.subnet.router, self.port, *expression)


class Subnet:
    """Prefixes of an underlay on a router's bridge. The router has the first address of each."""

    def __init__(self, router: Router, name: str, prefixes: tuple[str, ...], number: int) -> None:
        self.router = router
        self.name = name
        self.prefixes = [ip_network(prefix) for prefix in prefixes]
        self.gateways: list[Address] = [prefix[1] for prefix in self.prefixes]
        self.bridge = f"sub{number}"
        self.links: list[Link] = []
        self._taken = 1
        router.ip(
            f"link add {self.bridge} type bridge mcast_snooping 0",
            *(
                f"addr add {gateway}/{prefix.prefixlen} dev {self.bridge}"
                + (" nodad" if prefix.version == 6 else "")
                for gateway, prefix in zip(self.gateways, self.prefixes, strict=True)
            ),
            f"link set {self.bridge} up",
        )

    def next_addresses(self) -> list[Address]:
        """Take the next free host number: the same in every prefix."""
        self._taken += 1
        return [prefix[self._taken] for prefix in self.prefixes]


class Lab:
    """A pid namespace with places in it. Use it as a context manager.

    `living` are all that are open in this process, for whoever reports a failure.
    """

    living: ClassVar[list[Lab]] = []

    def __init__(self, title: str = "lab") -> None:
        self.title = title
        self.routers: dict[str, Router] = {}
        self.subnets: dict[str, Subnet] = {}
        self.hosts: dict[str, Host] = {}
        self._links = 0
        program = [sys.executable, "-ISB", str(Path(__file__).with_name("init.py"))]
        self._init = subprocess.Popen(
            [*UNSHARE, *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._init.stdout is not None
        if self._init.stdout.readline() != b"ready\n":
            raise RuntimeError("no namespaces: the lab needs root on a Linux machine")
        first = int(Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text())
        self._pids = os.open(f"/proc/{first}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._inside = os.pidfd_open(first)
        self.inode = os.fstat(self._pids).st_ino
        Lab.living.append(self)

    @property
    def where(self) -> Where:
        return Where(self._pids, self._inside)

    def router(self, name: str = BACKBONE) -> Router:
        """Return the router of that name; it is made when it is not there."""
        if name not in self.routers:
            self.routers[name] = Router(name, self.where)
        return self.routers[name]

    def subnet(self, name: str, *prefixes: str, router: str = BACKBONE) -> Subnet:
        """Declare an underlay subnet on a router."""
        number = len(self.subnets)
        self.subnets[name] = Subnet(self.router(router), name, prefixes, number)
        return self.subnets[name]

    def host(self, name: str, *subnets: str, mtu: int = 1500) -> Host:
        """Declare a host with one interface on each subnet, eth0 first."""
        self.hosts[name] = host = Host(name, self.where)
        for number, subnet in enumerate(subnets):
            host.links.append(self._link(host, subnet, f"eth{number}", mtu))
        return host

    def _link(self, place: Place, subnet: str, interface: str, mtu: int) -> Link:
        self._links += 1
        link = Link(self.subnets[subnet], place, interface, f"port{self._links}", mtu)
        self.subnets[subnet].links.append(link)
        return link

    def nat(self, name: str, outside: str, *inside: str, symmetric: bool = False) -> Subnet:
        """Declare a subnet behind a router that hides it, as homes and offices are.

        A symmetric one takes another port for every target, so what STUN says of it helps nobody.
        """
        self.uplink(name, outside)
        self.router(name).masquerade("eth0", symmetric=symmetric)
        return self.subnet(name, *inside, router=name)

    def uplink(self, router: str, subnet: str, mtu: int = 1500) -> Link:
        """Join a router to a subnet of another, as that one's client on interface eth0."""
        return self._link(self.router(router), subnet, "eth0", mtu)

    @property
    def places(self) -> list[Place]:
        containers = [box for host in self.hosts.values() for box in host.containers.values()]
        return [*self.routers.values(), *self.hosts.values(), *containers]

    def draw(self) -> str:
        """Return the lab as text: routers, their subnets, the hosts on them, their containers."""
        lines = [self.title]
        for router in self.routers.values():
            lines.append(f"└─ {router.name} ({router.kind})")
            for subnet in (one for one in self.subnets.values() if one.router is router):
                lines.append(f"   └─ {subnet.name} {' '.join(map(str, subnet.prefixes))}")
                lines += [f"      └─ {_describe(link)}" for link in subnet.links]
        return "\n".join(lines)

    def logs(self, lines: int = 25) -> str:
        """Return the ends of the logs of all daemons that were started."""
        parts = []
        for place in self.places:
            for daemon in place.daemons:
                state = "running" if daemon.running else f"ended with {daemon.process.returncode}"
                parts.append(f"--- {place.name}: {daemon.name} ({state})\n{daemon.tail(lines)}")
        return "\n".join(parts)

    def close(self) -> None:
        """End everything in the lab and assert that nothing of it is left on the machine."""
        Lab.living.remove(self)
        namespaces = {place.netns for place in self.places}
        for place in [*self.hosts.values(), *self.routers.values()]:
            place.close()
        assert self._init.stdin is not None
        assert self._init.stdout is not None
        self._init.stdin.close()
        self._init.wait(20)
        self._init.stdout.close()
        os.close(self._pids)
        os.close(self._inside)
        wait_until(lambda: not left_over(self.inode, namespaces), 10, "the lab is gone", pause=0.01)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _describe(link: Link) -> str:
    text = f"{link.place.name} {link.interface} {' '.join(map(str, link.addresses))} mtu {link.mtu}"
    text += f"  {link.quality}" if link.quality else ""
    containers = getattr(link.place, "containers", {})
    return text + (f"  [{' '.join(containers)}]" if containers else "")


def left_over(pid_namespace: int, network_namespaces: set[int]) -> list[str]:
    """Return what is left of a lab: processes in its pid namespace, mounts of its namespaces."""
    left = [f"process {pid}" for pid in all_processes() if _is_in(pid, pid_namespace)]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    wanted = {f"net:[{inode}]" for inode in network_namespaces}
    return left + [f"mount {line}" for line in mounts if wanted & set(line.split())]


def _is_in(pid: int, pid_namespace: int) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino == pid_namespace
    except OSError:
        return False
