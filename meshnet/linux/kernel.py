"""Driver. The real kernel: reads it into a Host and applies operations, over netlink and nft.

    Host.tunnel     wireguard (the port), tunnel      the device in the host's namespace
    Host.guard      guard                             the nft table there
    Host.segments   spaces, segment, entries          a namespace per network
      .ports        ports, inside                     veth pairs into containers and the host

Context: the kernel is asked by whoever runs a pass, from any thread of the agent. Choice: one lock
around every call, one netlink socket per network held open, and one thread for each call, which
visits all namespaces the call has to do with. Price: calls wait for each other, and a network's
namespace lives for as long as the agent has not let go of it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from typing import Any

from meshnet.errors import BadInput, NotFound
from meshnet.linux import entries, ports, segment, tunnel
from meshnet.linux.events import Listener
from meshnet.linux.guard import GuardTable
from meshnet.linux.links import name_again
from meshnet.linux.namespace import Namespace
from meshnet.linux.netlink import Netlink, in_namespace
from meshnet.linux.netns import own_namespace
from meshnet.linux.port import Event
from meshnet.linux.purge import TUNNELS, Purge
from meshnet.linux.spaces import Space, Spaces
from meshnet.linux.wireguard import WireGuard
from meshnet.plan import operations as op
from meshnet.plan.state import VXLAN, Host, Segment, Tunnel


class LinuxKernel:
    """The kernel of the host whose network namespace the calling thread is in."""

    def __init__(self, wireguard: WireGuard, tunnel_name: str = "meshnet0") -> None:
        self._wireguard = wireguard
        self._tunnel = tunnel_name
        self._lock = threading.RLock()
        self._home = own_namespace()
        self._host = Namespace(self._home, Netlink(), "the host")
        self._guard = GuardTable(self._home)
        self._listener: Listener | None = None
        self._spaces = Spaces(self._watch, self._forget)

    @property
    def backend(self) -> str:
        return self._wireguard.backend

    def read(
        self,
        networks: Collection[str] | None = None,
        tunnel: bool = True,
        *,
        trusting: bool = False,
    ) -> Host:
        """Return what is ours now; see the port."""
        with self._lock:
            here = self._spaces.networks()
            wanted = here if networks is None else [name for name in here if name in networks]
            trust = trusting and self._listener is not None
            return in_namespace(self._home, lambda: self._read(wanted, tunnel, trust))

    def apply(self, operation: op.Operation) -> None:
        """Bring about what the operation says; see the port."""
        act = _ACTS.get(type(operation))
        if act is None:
            raise BadInput(f"no such operation: {operation}")
        with self._lock:
            try:
                in_namespace(self._home, lambda: act(self, operation))
            finally:
                # The next audit may come sooner than the event of it.
                self._spaces.doubt(*_concerned(operation))

    def purge(self) -> list[str]:
        """Remove all that carries our mark; return a line for each thing."""
        with self._lock:
            purge = Purge(self._host, self._wireguard, self._guard, self._spaces)
            return in_namespace(self._home, purge.run)

    async def events(self) -> AsyncIterator[Event]:
        """Yield events for as long as the caller listens."""
        with self._lock:
            listener = self._listener = Listener(self._home, self._spaces.doubt)
            self._spaces.announce()
            # Nobody has heard of what happened until now.
            self._spaces.doubt_all()
        try:
            async for event in listener.events():
                if event.lost:
                    self._spaces.doubt_all()
                yield event
        finally:
            with self._lock:
                self._listener = None
                listener.close()

    def close(self) -> None:
        """Let go of every descriptor. Nothing in the kernel changes."""
        with self._lock:
            self._spaces.close()
            self._guard.close()
            self._host.netlink.close()
            os.close(self._home)

    def _watch(self, space: Space) -> None:
        if self._listener is not None:
            self._listener.watch(space.network, space.descriptor)

    def _forget(self, space: Space) -> None:
        if self._listener is not None:
            self._listener.forget(space.network)

    def _read(self, networks: Collection[str], tunnel: bool, trusting: bool) -> Host:
        return Host(
            tunnel=self._read_tunnel() if tunnel else None,
            guard=self._guard.read() if tunnel else None,
            segments={name: self._read_segment(name, trusting) for name in networks},
        )

    def _read_tunnel(self) -> Tunnel | None:
        return tunnel.read(self._host, self._wireguard, self._tunnel)

    def _read_segment(self, network: str, trusting: bool) -> Segment:
        space = self._spaces.find(network)
        if space is None:
            return segment.broken()
        links = space.links()
        vxlan = next((link.index for link in links if link.name == VXLAN), 0)
        if self._listener is not None:
            self._listener.mind(network, vxlan)
            # Who changes links takes entries with them, and the links are read as they are now.
            trusting = trusting and not self._listener.has_news(network)
        found = space.known_entries(vxlan) if trusting else space.entries(vxlan)
        skeleton = segment.read(space, links, found.fdb)
        if not self._spaces.is_named(network):
            skeleton = replace(skeleton, mtu=0)
        return replace(
            skeleton,
            neighbours=found.neighbours,
            ports=ports.read_all(space, self._home, links, found.fdb),
        )

    def _space(self, network: str) -> Space:
        space = self._spaces.find(network)
        if space is None:
            raise NotFound(f"network {network} is not on this host", "Build it first.")
        return space

    def _vxlan(self, network: str) -> tuple[Space, int]:
        space = self._space(network)
        link = space.link(VXLAN)
        if link is None:
            raise NotFound(f"network {network} has no VXLAN device", "Build it again.")
        return space, link.index

    def _on_vxlan(self, network: str, act: Callable[[Netlink, int], None]) -> None:
        space, index = self._vxlan(network)
        act(space.netlink, index)

    def _off_vxlan(self, network: str, act: Callable[[Netlink, int], None]) -> None:
        """Remove something; where there is no device, it is gone already."""
        space = self._spaces.find(network)
        link = None if space is None else space.link(VXLAN)
        if space is not None and link is not None:
            act(space.netlink, link.index)

    def _create_tunnel(self, it: op.CreateTunnel) -> None:
        name_again(self._host, dict.fromkeys(TUNNELS, it.name))
        self._wireguard.create(it.name, it.mtu)
        tunnel.prepare(self._host, it.name)

    def _configure_tunnel(self, it: op.ConfigureTunnel) -> None:
        self._wireguard.configure(it.name, it.private_key, it.listen_port, it.fwmark)

    def _add_address(self, it: op.AddAddress) -> None:
        self._host.add_address(self._host.require(it.name).index, it.address)

    def _remove_address(self, it: op.RemoveAddress) -> None:
        link = self._host.link(it.name)
        if link is not None:
            self._host.remove_address(link.index, it.address)

    def _add_route(self, it: op.AddRoute) -> None:
        self._host.add_route(self._host.require(it.name).index, it.prefix, mtu=it.mtu)

    def _remove_route(self, it: op.RemoveRoute) -> None:
        link = self._host.link(it.name)
        if link is not None:
            self._host.remove_route(link.index, it.prefix)

    def _build_segment(self, it: op.BuildSegment) -> None:
        segment.build(self._spaces.make(it.network), self._host, it.segment)

    def _set_fdb(self, it: op.SetFdb) -> None:
        self._on_vxlan(it.network, lambda link, at: entries.set_fdb(link, at, it.entries))

    def _remove_fdb(self, it: op.RemoveFdb) -> None:
        self._off_vxlan(it.network, lambda link, at: entries.remove_fdb(link, at, it.entries))

    def _set_neighbours(self, it: op.SetNeighbours) -> None:
        self._on_vxlan(it.network, lambda link, at: entries.set_neighbours(link, at, it.entries))

    def _remove_neighbours(self, it: op.RemoveNeighbours) -> None:
        self._off_vxlan(
            it.network, lambda link, at: entries.remove_neighbours(link, at, it.entries)
        )

    def _set_flood(self, it: op.SetFlood) -> None:
        self._on_vxlan(it.network, lambda link, at: entries.set_flood(link, at, it.vteps))

    def _set_port(self, it: op.SetPort) -> None:
        ports.set_one(self._space(it.network), self._home, it.name, it.port)

    def _remove_ports(self, it: op.RemovePorts) -> None:
        space = self._spaces.find(it.network)
        if space is not None:
            ports.remove(space, it.names)


def _concerned(operation: op.Operation) -> tuple[str, Collection[entries.Key] | None]:
    """Return the network that an operation changes and its entries there; None for anything."""
    if isinstance(operation, op.SetFdb | op.RemoveFdb | op.SetNeighbours | op.RemoveNeighbours):
        return operation.network, operation.entries
    return getattr(operation, "network", ""), None


_ACTS: dict[type, Callable[[LinuxKernel, Any], object]] = {
    op.CreateTunnel: LinuxKernel._create_tunnel,
    op.ConfigureTunnel: LinuxKernel._configure_tunnel,
    op.RemoveTunnel: lambda self, it: self._wireguard.remove(it.name),
    op.SetTunnelLink: lambda self, it: tunnel.set_up(self._host, it.name, it.mtu),
    op.ChangePeers: lambda self, it: self._wireguard.change_peers(it.name, it.changes),
    op.AddAddress: LinuxKernel._add_address,
    op.RemoveAddress: LinuxKernel._remove_address,
    op.AddRoute: LinuxKernel._add_route,
    op.RemoveRoute: LinuxKernel._remove_route,
    op.SetGuard: lambda self, it: self._guard.set(it.guard),
    op.RemoveGuard: lambda self, it: self._guard.remove(),
    op.BuildSegment: LinuxKernel._build_segment,
    op.RemoveSegment: lambda self, it: self._spaces.remove(it.network),
    op.SetFdb: LinuxKernel._set_fdb,
    op.RemoveFdb: LinuxKernel._remove_fdb,
    op.SetNeighbours: LinuxKernel._set_neighbours,
    op.RemoveNeighbours: LinuxKernel._remove_neighbours,
    op.SetFlood: LinuxKernel._set_flood,
    op.SetPort: LinuxKernel._set_port,
    op.RemovePorts: LinuxKernel._remove_ports,
}
