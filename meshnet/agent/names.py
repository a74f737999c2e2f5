"""Shell. The node's names: what the view says becomes tables, the DNS process answers from them.

A follower of the node: with each new view or change of reach the tables are brought up to date and
handed to the DNS process, which listens on the node's mesh addresses and on the gateways of the
networks that live on this host. Nothing here can disturb the data plane: a fault is logged, shown
in the status, and tried again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from meshnet.agent.hostdns import HostDns
from meshnet.agent.node import TUNNEL, MeshNode
from meshnet.agent.resolver import host_upstreams, look_up
from meshnet.agent.waiting import happened
from meshnet.dns.feed import DnsFeed
from meshnet.dns.table import HOST, Table
from meshnet.dns.zone import Zones
from meshnet.errors import MeshnetError
from meshnet.linux.resolved import LinkDns
from meshnet.model.addresses import RESOLVER, Address, gateway
from meshnet.model.names import ZONE
from meshnet.plan.state import NETNS_PREFIX
from meshnet.wire.local import DnsAnswer, DnsState, HostDnsMode

log = logging.getLogger(__name__)

DNS_PORT = 53
RETRY = 1.0
LOOK_AROUND = 30.0
"""Seconds after which listeners and upstreams are looked at though nothing changed."""
UPSTREAMS_AGAIN = 2.0
"""Seconds between two looks at the host's own DNS servers, at least: changes come in crowds."""


class Names:
    """Keeps the DNS process fed."""

    def __init__(self, node: MeshNode, run_dir: Path, *, forward: bool) -> None:
        self._node = node
        self._zones = Zones(node.id)
        self._feed = DnsFeed(run_dir / "dns.sock")
        self._forward = forward
        self.host = HostDns(node.settings.dns_host, TUNNEL)
        self._changed = asyncio.Event()
        self._host_turn = asyncio.Lock()
        self._tables: Mapping[str, Table] = {}
        self._listening: set[tuple[str, str]] = set()
        self._upstreams: tuple[str, ...] = ()
        self._upstreams_at = 0.0
        self._started = False
        self._error = ""
        node.followers.append(self._changed.set)

    async def run(self) -> None:
        """Follow for ever."""
        try:
            while True:
                try:
                    await self._step()
                    self._error = ""
                except MeshnetError as error:
                    if error.message != self._error:
                        log.error("DNS: %s", error.message)
                    self._error = error.message
                    await asyncio.sleep(RETRY * random.uniform(0.5, 1.0))
                    continue
                await happened(self._changed, LOOK_AROUND)
                self._changed.clear()
        finally:
            await self._feed.close()

    async def _step(self) -> None:
        if self._node.me is None:
            return
        if not self._started:
            await self._feed.start()
            self._started = True
        reach = self._node.liveness.reachable
        self._tables = self._zones.update(self._node.view, reach, self._networks())
        await self._feed.publish(self._tables)
        await self._point_upstreams()
        await self._listen()
        await self._keep_host()

    def _networks(self) -> list[str]:
        return sorted(self._node.attachments.networks() & self._node.view.networks.keys())

    async def _point_upstreams(self) -> None:
        now = time.monotonic()
        if now - self._upstreams_at < UPSTREAMS_AGAIN:
            return
        self._upstreams_at = now
        upstreams = host_upstreams(self._own_addresses()) if self._forward else ()
        if upstreams != self._upstreams:
            await self._feed.set_upstreams(upstreams)
            self._upstreams = upstreams

    async def _keep_host(self) -> None:
        me = self._node.me
        servers = (me.membership.address4, me.membership.address6) if me else ()
        wish = LinkDns(tuple(filter(self._has, servers)), self._zones.origins)
        async with self._host_turn:
            if self.host.is_due(wish):
                await asyncio.to_thread(self.host.keep, wish)

    def _own_addresses(self) -> list[str]:
        me = self._node.me
        if me is None:
            return []
        own: list[Address] = [me.membership.address4, me.membership.address6, RESOLVER]
        return [str(address) for address in own if self._has(address)]

    def _has(self, address: Address) -> bool:
        """Say whether this machine can have an address of that family."""
        return address.version == 4 or self._node.machine.ipv6

    async def _listen(self) -> None:
        wanted = self._wanted()
        for context, address in sorted(self._listening - wanted.keys()):
            await self._feed.unlisten(context, address)
            self._listening.discard((context, address))
        for (context, address), netns in sorted(wanted.items()):
            if (context, address) not in self._listening:
                await self._feed.listen(context, address, DNS_PORT, netns)
                self._listening.add((context, address))

    def _wanted(self) -> dict[tuple[str, str], str | None]:
        """Return (context, address) → network namespace of all listeners there should be."""
        wanted: dict[tuple[str, str], str | None] = {
            (HOST, address): None for address in self._own_addresses()
        }
        for name in self._networks():
            if name in self._node.built:
                path = f"/run/netns/{NETNS_PREFIX}{name}"
                gateways = map(gateway, self._node.view.networks[name].prefixes)
                servers = filter(self._has, (*gateways, RESOLVER))
                wanted |= {(name, str(address)): path for address in servers}
        return wanted

    async def query(self, name: str, kind: str) -> DnsAnswer:
        """Ask the DNS process as any program on this host would."""
        return await look_up(self._own_addresses(), name, kind)

    async def ask_by(self, mode: HostDnsMode) -> str:
        """Choose how this host asks for the mesh's names; return what it asks by now."""
        before = self.host.mode
        self.host.choose(mode)
        try:
            await self._keep_host()
        except MeshnetError:
            self.host.choose(before)
            raise
        self._node.settings = msgspec.structs.replace(self._node.settings, dns_host=mode)
        self._node.state.save_settings(self._node.settings)
        return self.host.state

    def state(self) -> DnsState:
        """Return how the DNS process is."""
        return DnsState(
            running=self._started and not self._error,
            zone=ZONE,
            addresses=tuple(address for _, address in sorted(self._listening)),
            names=self._count(),
            forwarding=bool(self._upstreams),
            host=self.host.state,
            last_error=self._error,
        )

    def _count(self) -> int:
        layers = dict(layer for table in self._tables.values() for layer in table.layers)
        return sum(len(layer) for layer in layers.values())

    async def stop(self) -> None:
        """End the DNS process."""
        await self._feed.stop()
