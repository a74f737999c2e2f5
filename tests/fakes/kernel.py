"""Shell. A host's kernel in memory: the port of `meshnet.linux.port` with the kernel's semantics.

It passes the contract suite that the real kernel passes. Made for hundreds of agents in one
process: a read costs nothing where nothing changed, and a change makes only its network anew. One
object is one host. What tests do behind the agent's back are methods of their own, below.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Any

from meshnet.errors import BadInput, Conflict, NotFound
from meshnet.linux.port import Event
from meshnet.linux.wireguard import refused
from meshnet.model.addresses import Address, Interface, Prefix
from meshnet.plan import operations as op
from meshnet.plan.state import BRIDGE, HANDED, HOST, VXLAN, Guard, Host, Port, Segment, Tunnel
from tests.fakes.wireguard import FakeWireGuard

NOWHERE = IPv4Address(0)
FORGED = Guard("", frozenset(), frozenset())
BROKEN = Segment(0, 0, NOWHERE, "", "", frozenset())


@dataclass(slots=True)
class _Link:
    """The link side of a WireGuard device."""

    mtu: int
    up: bool = False
    addresses: set[Interface] = field(default_factory=set)
    routes: dict[Prefix, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Network:
    """A network's namespace. `wired` are the ports that are on the bridge there is now."""

    vxlan: tuple[int, IPv4Address] | None = None
    vtep_mac: str = ""
    bridge_mac: str | None = None
    gateways: frozenset[Interface] = frozenset()
    mtu: int = 0
    whole: bool = False
    named: bool = True
    fdb: dict[str, IPv4Address] = field(default_factory=dict)
    neighbours: dict[Address, str] = field(default_factory=dict)
    flood: frozenset[IPv4Address] = frozenset()
    ports: dict[str, Port] = field(default_factory=dict)
    wired: set[str] = field(default_factory=set)
    fresh: Segment | None = None

    def snapshot(self) -> Segment:
        if self.fresh is None:
            vni, local = self.vxlan or (0, NOWHERE)
            good = self.whole and self.named and bool(self.vxlan) and self.bridge_mac is not None
            self.fresh = Segment(
                vni=vni,
                mtu=self.mtu if good else 0,
                local=local,
                vtep_mac=self.vtep_mac if self.vxlan else "",
                gateway_mac=self.bridge_mac or "",
                gateways=self.gateways if self.bridge_mac is not None else frozenset(),
                fdb=dict(self.fdb),
                neighbours=dict(self.neighbours),
                ports={
                    name: port if name in self.wired else replace(port, mtu=0)
                    for name, port in sorted(self.ports.items())
                },
                flood=self.flood,
            )
        return self.fresh

    def lose_vxlan(self) -> None:
        self.vxlan = None
        self.fdb, self.neighbours, self.flood = {}, {}, frozenset()


class FakeKernel:
    """A host. `namespaces` are those of containers that run now: path → inode."""

    def __init__(
        self, wireguard: FakeWireGuard | None = None, tunnel_name: str = "meshnet0"
    ) -> None:
        self.wireguard = wireguard or FakeWireGuard()
        self.namespaces: dict[str, int] = {}
        self.foreign_routes: set[Prefix] = set()
        self.foreign_interfaces: set[tuple[str, str]] = set()
        self._tunnel = tunnel_name
        self._links: dict[str, _Link] = {}
        self._guard: Guard | None = None
        self._networks: dict[str, _Network] = {}
        self._inodes = itertools.count(4026532000)
        self._listeners: list[_Listener] = []

    @property
    def backend(self) -> str:
        return self.wireguard.backend

    def read(
        self,
        networks: Collection[str] | None = None,
        tunnel: bool = True,
        *,
        trusting: bool = False,
    ) -> Host:
        wanted = self._networks if networks is None else self._networks.keys() & set(networks)
        return Host(
            tunnel=self._read_tunnel() if tunnel else None,
            guard=self._guard if tunnel else None,
            segments={name: self._networks[name].snapshot() for name in sorted(wanted)},
        )

    def apply(self, operation: op.Operation) -> None:
        act = _ACTS.get(type(operation))
        if act is None:
            raise BadInput(f"no such operation: {operation}")
        act(self, operation)
        self._tell(getattr(operation, "network", None))

    def purge(self) -> list[str]:
        lines = []
        for name, network in sorted(self._networks.items()):
            lines += [f"removed port {port} of network {name}" for port in sorted(network.ports)]
            lines.append(f"removed network {name}")
        self._networks.clear()
        for name in sorted(self._links):
            self.wireguard.remove(name)
            lines.append(f"removed WireGuard device {name}")
        self._links.clear()
        if self._guard is not None:
            lines.append("removed nft table inet meshnet")
        self._guard = None
        self._tell(None)
        return lines

    async def events(self) -> AsyncIterator[Event]:
        listener = _Listener()
        self._listeners.append(listener)
        try:
            while True:
                yield await listener.next()
        finally:
            self._listeners.remove(listener)

    # What happens behind the agent's back

    def start_container(self, path: str) -> int:
        """Let a container run whose namespace is at `path`; return its inode."""
        self.namespaces[path] = next(self._inodes)
        return self.namespaces[path]

    def end_container(self, path: str) -> None:
        """Let it end: its namespace goes, and every port into it."""
        del self.namespaces[path]
        for name, network in self._networks.items():
            gone = [key for key, port in network.ports.items() if port.netns == path]
            if gone:
                self._break_ports(name, gone)

    def delete_link(self, network: str, link: str) -> None:
        """Delete the bridge, the VXLAN device or a port."""
        changed = self._change(network)
        if link == VXLAN:
            changed.lose_vxlan()
        elif link == BRIDGE:
            changed.bridge_mac = None
            changed.wired.clear()
        else:
            self._break_ports(network, [link])
        self._tell(network)

    def set_down(self, network: str, link: str) -> None:
        changed = self._change(network)
        if link in (VXLAN, BRIDGE):
            changed.whole = False
        else:
            changed.wired.discard(link)
        self._tell(network)

    def lose_name(self, network: str) -> None:
        """Take the namespace's name away; the agent holds it, so it lives on."""
        self._change(network).named = False
        self._tell(network)

    def set_entry(self, network: str, mac: str, vtep: IPv4Address | None) -> None:
        """Forge an FDB entry, or remove one."""
        _put(self._change(network).fdb, mac, vtep)
        self._tell(network)

    def set_neighbour(self, network: str, address: Address, mac: str | None) -> None:
        _put(self._change(network).neighbours, address, mac)
        self._tell(network)

    def remove_port_address(self, network: str, port: str, address: Interface) -> None:
        ports = self._change(network).ports
        ports[port] = replace(ports[port], addresses=ports[port].addresses - {address})
        self._tell(network)

    def allow_source(self, network: str, port: str, address: Address) -> None:
        """Let a port send from one address more."""
        ports = self._change(network).ports
        ports[port] = replace(ports[port], sources=ports[port].sources | {address})
        self._tell(network)

    def delete_source_guard(self, network: str) -> None:
        changed = self._change(network)
        changed.whole = False
        for name, port in changed.ports.items():
            changed.ports[name] = replace(port, sources=frozenset())
        self._tell(network)

    def remove_tunnel_address(self, address: Interface) -> None:
        self._links[self._tunnel].addresses.discard(address)
        self._tell(None)

    def remove_tunnel_route(self, prefix: Prefix) -> None:
        self._links[self._tunnel].routes.pop(prefix, None)
        self._tell(None)

    def forge_guard(self) -> None:
        """Change a rule of the guard."""
        self._guard = FORGED
        self._tell(None)

    def delete_guard(self) -> None:
        self._guard = None
        self._tell(None)

    # Details

    def _tell(self, network: str | None) -> None:
        for listener in self._listeners:
            listener.tell(network)

    def _read_tunnel(self) -> Tunnel | None:
        device = self.wireguard.read(self._tunnel)
        link = self._links.get(self._tunnel)
        if device is None or link is None:
            return None
        return Tunnel(
            name=self._tunnel,
            private_key=device.private_key,
            listen_port=device.listen_port,
            mtu=link.mtu,
            addresses=frozenset(link.addresses),
            routes=dict(link.routes),
            peers=device.peers,
            fwmark=device.fwmark,
            up=link.up,
            status=device.status,
        )

    def _link(self, name: str) -> _Link:
        if name not in self._links:
            raise refused(f"look up {name}", errno.ENODEV)
        return self._links[name]

    def _change(self, name: str) -> _Network:
        if name not in self._networks:
            raise NotFound(f"network {name} is not on this host", "Build it first.")
        self._networks[name].fresh = None
        return self._networks[name]

    def _with_vxlan(self, name: str) -> _Network:
        network = self._change(name)
        if network.vxlan is None:
            raise NotFound(f"network {name} has no VXLAN device", "Build it again.")
        return network

    def _forget_ports(self, network: str, names: Collection[str]) -> None:
        changed = self._change(network)
        for name in names:
            changed.ports.pop(name, None)
            changed.wired.discard(name)

    def _break_ports(self, network: str, names: Collection[str]) -> None:
        """Take the links away; what they may send from stays until the port is removed."""
        changed = self._change(network)
        for name in names:
            sources = changed.ports[name].sources
            changed.ports[name] = Port("?", 0, "", "", 0, frozenset(), sources=sources)
            changed.wired.discard(name)

    def _create_tunnel(self, it: op.CreateTunnel) -> None:
        self.wireguard.create(it.name, it.mtu)
        self._links.setdefault(it.name, _Link(it.mtu)).mtu = it.mtu

    def _remove_tunnel(self, it: op.RemoveTunnel) -> None:
        self.wireguard.remove(it.name)
        self._links.pop(it.name, None)

    def _set_tunnel_link(self, it: op.SetTunnelLink) -> None:
        link = self._link(it.name)
        link.mtu, link.up = it.mtu, True

    def _add_route(self, it: op.AddRoute) -> None:
        link = self._link(it.name)
        if not link.up:
            raise refused(f"add route {it.prefix} in the host", errno.ENETDOWN)
        if it.prefix in self.foreign_routes:
            raise Conflict(f"add route {it.prefix} in the host: there is one that is not ours")
        link.routes[it.prefix] = it.mtu

    def _remove_address(self, it: op.RemoveAddress) -> None:
        if it.name in self._links:
            self._links[it.name].addresses.discard(it.address)

    def _remove_route(self, it: op.RemoveRoute) -> None:
        if it.name in self._links:
            self._links[it.name].routes.pop(it.prefix, None)

    def _set_guard(self, guard: Guard | None) -> None:
        self._guard = guard

    def _build(self, it: op.BuildSegment) -> None:
        want = it.segment
        self._check_vni(it.network, want.vni)
        network = self._networks.setdefault(it.network, _Network())
        if network.vxlan not in (None, (want.vni, want.local)):
            network.lose_vxlan()
        network.vxlan = want.vni, want.local
        network.vtep_mac, network.bridge_mac = want.vtep_mac, want.gateway_mac
        network.gateways, network.mtu = want.gateways, want.mtu
        network.whole = network.named = True
        for name in network.ports.keys() & want.ports.keys():
            sources = want.ports[name].sources
            network.ports[name] = replace(network.ports[name], sources=sources)
        network.fresh = None

    def _check_vni(self, name: str, vni: int) -> None:
        for other, network in self._networks.items():
            if other != name and network.vxlan is not None and network.vxlan[0] == vni:
                raise refused(f"create VXLAN device with VNI {vni}", errno.EEXIST)

    def _set_fdb(self, it: op.SetFdb) -> None:
        self._with_vxlan(it.network).fdb.update(it.entries)

    def _remove_fdb(self, it: op.RemoveFdb) -> None:
        if it.network in self._networks:
            fdb = self._change(it.network).fdb
            for mac in it.entries:
                fdb.pop(mac, None)

    def _set_neighbours(self, it: op.SetNeighbours) -> None:
        self._with_vxlan(it.network).neighbours.update(it.entries)

    def _remove_neighbours(self, it: op.RemoveNeighbours) -> None:
        if it.network in self._networks:
            neighbours = self._change(it.network).neighbours
            for address in it.entries:
                neighbours.pop(address, None)

    def _set_flood(self, it: op.SetFlood) -> None:
        self._with_vxlan(it.network).flood = it.vteps

    def _set_port(self, it: op.SetPort) -> None:
        network, port = self._change(it.network), it.port
        if network.bridge_mac is None:
            raise NotFound(f"network {it.network} has no bridge", "Build it again.")
        if port.netns not in (HOST, HANDED) and self.namespaces.get(port.netns) != port.inode:
            raise NotFound(f"network namespace {port.netns} does not exist")
        known = network.ports.get(it.name)
        if (known is None or not known.interface) and self._has_interface(port):
            raise Conflict(f"{port.netns or 'the host'} has a link {port.interface} already")
        used = frozenset(
            gateway
            for gateway in port.gateways
            if any(route.version == gateway.version for route in port.routes)
        )
        network.ports[it.name] = replace(port, gateways=used)
        network.wired.add(it.name)

    def _has_interface(self, port: Port) -> bool:
        place = port.netns, port.interface
        return place in self.foreign_interfaces or any(
            (other.netns, other.interface) == place
            for network in self._networks.values()
            for other in network.ports.values()
        )

    def _remove_ports(self, it: op.RemovePorts) -> None:
        if it.network in self._networks:
            self._forget_ports(it.network, it.names)


def _put(entries: dict[Any, Any], key: object, value: object) -> None:
    if value is None:
        entries.pop(key, None)
    else:
        entries[key] = value


class _Listener:
    """Gathers events until somebody asks."""

    def __init__(self) -> None:
        self._host = False
        self._networks: set[str] = set()
        self._some = asyncio.Event()

    def tell(self, network: str | None) -> None:
        if network is None:
            self._host = True
        else:
            self._networks.add(network)
        self._some.set()

    async def next(self) -> Event:
        await self._some.wait()
        self._some.clear()
        event = Event(self._host, frozenset(self._networks))
        self._host, self._networks = False, set()
        return event


_ACTS: dict[type, Callable[[FakeKernel, Any], object]] = {
    op.CreateTunnel: FakeKernel._create_tunnel,
    op.ConfigureTunnel: lambda self, it: self.wireguard.configure(
        it.name, it.private_key, it.listen_port, it.fwmark
    ),
    op.RemoveTunnel: FakeKernel._remove_tunnel,
    op.SetTunnelLink: FakeKernel._set_tunnel_link,
    op.ChangePeers: lambda self, it: self.wireguard.change_peers(it.name, it.changes),
    op.AddAddress: lambda self, it: self._link(it.name).addresses.add(it.address),
    op.RemoveAddress: FakeKernel._remove_address,
    op.AddRoute: FakeKernel._add_route,
    op.RemoveRoute: FakeKernel._remove_route,
    op.SetGuard: lambda self, it: self._set_guard(it.guard),
    op.RemoveGuard: lambda self, it: self._set_guard(None),
    op.BuildSegment: FakeKernel._build,
    op.RemoveSegment: lambda self, it: self._networks.pop(it.network, None),
    op.SetFdb: FakeKernel._set_fdb,
    op.RemoveFdb: FakeKernel._remove_fdb,
    op.SetNeighbours: FakeKernel._set_neighbours,
    op.RemoveNeighbours: FakeKernel._remove_neighbours,
    op.SetFlood: FakeKernel._set_flood,
    op.SetPort: FakeKernel._set_port,
    op.RemovePorts: FakeKernel._remove_ports,
}
