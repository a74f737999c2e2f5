"""Shell. The kinds of places: hosts, their containers, and the routers between them.

A host looks like a machine of its own to whatever runs on it: /run and /var/lib are empty and its
own, /etc/resolv.conf is its own once `resolver` was called, and it is alone in its network
namespace. Everything else it shares with the machine the lab runs on: programs, /etc, kernel.
"""

from __future__ import annotations

import os
import shlex
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.place import Place
from tests.lab.spawn import CLONE_NEWNET, CLONE_NEWNS, Where

if TYPE_CHECKING:
    from tests.lab.topology import Link

EMPTY = ("/run", "/var/lib")
"""Directories that each host has for itself."""

KEPT = (Path.cwd(), Path(sys.prefix), Path(sys.base_prefix))
"""What must stay visible in a host even where it lies below an emptied directory."""

ROUTING = """
for set in ipv4/ip_forward=1 ipv6/conf/all/forwarding=1 ipv6/conf/default/accept_dad=0; do
    echo ${set#*=} >/proc/sys/net/${set%=*}
done
"""
"""Forward both families, and be there at once: duplicates are detected by hosts, not by us."""


class Router(Place):
    """A place that forwards between its subnets. `kind` says for people what it is."""

    def __init__(self, name: str, lab: Where) -> None:
        self.kind = "router"
        super().__init__(name, lab, f"{_own_directories()}\nip link set lo up\n{ROUTING}")

    def masquerade(self, interface: str, *, symmetric: bool = False) -> None:
        """Hide all that leaves by `interface` behind its address, as a home router does."""
        self.kind = "symmetric NAT" if symmetric else "NAT"
        ports = " fully-random" if symmetric else ""
        self.run(
            "nft",
            "-f",
            "-",
            input="table inet nat {\nchain post {\ntype nat hook postrouting priority 100\n"
            f'oifname "{interface}" masquerade{ports}\n}}\n}}\n',
        )


class Host(Place):
    """A machine. `links` are its interfaces eth0, eth1, … in order."""

    def __init__(self, name: str, lab: Where) -> None:
        super().__init__(name, lab, f"{_own_directories()}\nip link set lo up")
        self._lab = lab
        self.links: list[Link] = []
        self.containers: dict[str, Container] = {}
        self.guests: list[Place] = []
        """Places with the host's network and other files."""

    @property
    def address4(self) -> str:
        return str(self.links[0].address(IPv4Address))

    @property
    def address6(self) -> str:
        return str(self.links[0].address(IPv6Address))

    def container(self, name: str) -> Container:
        """Make a container on this host: without any interface but loopback."""
        self.containers[name] = Container(name, self)
        return self.containers[name]

    def remove(self, container: Container) -> None:
        """End a container and all that runs in it."""
        name = next(name for name, each in self.containers.items() if each is container)
        self.containers.pop(name).close()

    def resolver(self, *servers: str, search: str = "") -> None:
        """Give the host an /etc/resolv.conf of its own."""
        set_resolver(self, servers, search)

    def power_off(self) -> None:
        """Lose power: all processes end at once, the cables carry nothing."""
        for container in self.containers.values():
            container.close()
        self.containers.clear()
        self.kill_all()
        for link in self.links:
            link.remove()

    def power_on(self) -> None:
        """Come back after `power_off`: the kernel's state is new, /var/lib is as it was."""
        before, holder = self.where, self._holder
        here = Where(before.pids, before.inside, CLONE_NEWNS | CLONE_NEWNET)
        own_run = "umount --recursive --lazy /run\nmount -t tmpfs -o mode=755 tmpfs /run"
        self._hold(here, f"{own_run}\nip link set lo up")
        holder.kill()
        holder.wait(10)
        os.close(before.inside)
        for link in self.links:
            link.build()

    def reboot(self) -> None:
        """Lose power and come back."""
        self.power_off()
        self.power_on()

    def close(self) -> None:
        for place in (*self.containers.values(), *self.guests):
            place.close()
        super().close()


class Container(Place):
    """A network namespace on a host, with the host's files and its own /etc/resolv.conf."""

    def __init__(self, name: str, host: Host) -> None:
        super().__init__(f"{host.name}.{name}", host.where, "ip link set lo up")
        self.host = host

    def resolver(self, *servers: str, search: str = "") -> None:
        """Give the container an /etc/resolv.conf, as a container engine would."""
        set_resolver(self, servers, search)


def set_resolver(place: Place, servers: tuple[str, ...], search: str) -> None:
    """Put a resolv.conf with these servers over the place's /etc/resolv.conf."""
    lines = [f"nameserver {server}" for server in servers] + (
        [f"search {search}"] if search else []
    )
    own = shlex.quote(f"/run/resolv/{place.name}")
    place.run(
        "sh",
        "-euc",
        f"mkdir -p /run/resolv; cat >{own}; target=$(readlink -m /etc/resolv.conf); "
        'case $target in /run/*) mkdir -p "${target%/*}"; touch "$target";; esac; '
        f'mount --bind {own} "$target"',
        input="\n".join(lines) + "\n",
    )


def _own_directories() -> str:
    """Return the script that mounts an empty directory over each of EMPTY, less what is KEPT."""
    script = []
    for directory in EMPTY:
        kept = sorted({shlex.quote(str(path)) for path in KEPT if path.is_relative_to(directory)})
        opened = list(enumerate(kept, 3))
        script += [f"exec {number}<{path}" for number, path in opened]
        script += [f"mount -t tmpfs -o mode=755 tmpfs {directory}"]
        for number, path in opened:
            script.append(f"mkdir -p {path}")
            script.append(f"mount --no-canonicalize --bind /proc/self/fd/{number} {path}")
            script.append(f"exec {number}<&-")
    return "\n".join(script)
