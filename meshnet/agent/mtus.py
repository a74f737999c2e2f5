"""Shell. What fits into the tunnel to each peer: computed from both ends' links, proven by probes.

    underlay, candidates, endpoint in use ─▶ plan.mtu ─▶ limit ─▶ paths.sizes ─▶ what fits
                                                            probes of size ◀──┘

The probes go by the prober's socket. A peer whose agent is down bounces them, which is as good as
an answer: they have arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from meshnet.agent.waiting import happened
from meshnet.errors import BadInput
from meshnet.linux.underlay import UnderlayAddress
from meshnet.model.addresses import Address, Endpoint
from meshnet.model.records import NodeRecord
from meshnet.model.view import Node
from meshnet.paths.sizes import Sizes
from meshnet.plan.mtu import Way, device_mtu, limits, peer_mtu, tunnel_mtu, ways
from meshnet.plan.state import Tunnel
from meshnet.wire.probe import ANSWER, ASK, SizeProbe

SHORTEST_NAP = 0.02


class Mtus:
    """What fits, in bytes, by node. `changed` is called when probes have found something else."""

    def __init__(
        self,
        rounds_per_second: float,
        send: Callable[[bytes, str], None],
        changed: Callable[[], None],
    ) -> None:
        self._sizes = Sizes(rounds_per_second)
        self._send = send
        self._changed = changed
        self._addresses: dict[str, str] = {}
        self._known: dict[str, tuple[Node, Endpoint | None, int]] = {}
        self._limits: dict[str, int] = {}
        self._peers: Mapping[str, Node] = {}
        self._places: Mapping[str, tuple[Address, NodeRecord | None]] = {}
        self._scene: tuple[object, ...] = ()
        self._wake = asyncio.Event()
        self.here: tuple[Way, ...] = ()

    def set_underlay(self, underlay: Iterable[UnderlayAddress]) -> None:
        """Say by which links this host is reached."""
        self.here = ways((item.link, item.mtu, item.address) for item in underlay)
        self._known.clear()

    def refresh(
        self, peers: Mapping[str, Node], tunnel: Tunnel | None, reachable: Collection[str]
    ) -> bool:
        """Take in who the peers are and where they are now; return whether any limit changed."""
        if peers is not self._peers:
            self._peers = peers
            self._places = {n: (o.membership.address4, o.record) for n, o in peers.items()}
        scene = (self.here, self._places, tunnel.peers if tunnel else None, frozenset(reachable))
        if scene == self._scene:
            return False
        self._scene = scene
        found = {name: self._limit(name, node, tunnel) for name, node in peers.items()}
        for gone in self._known.keys() - found.keys():
            del self._known[gone]
        before, self._limits = self._limits, limits(found)
        self._addresses = {name: str(node.membership.address4) for name, node in peers.items()}
        self._sizes.set_peers(self._limits, reachable, time.monotonic(), self._adopted(tunnel))
        self._wake.set()
        return before != self._limits

    def _adopted(self, tunnel: Tunnel | None) -> dict[str, int]:
        """Return what routes say that were there before us."""
        if tunnel is None or self._sizes.any:
            return {}
        routes = {str(prefix): mtu for prefix, mtu in tunnel.routes.items() if mtu}
        return {
            name: routes[f"{address}/32"]
            for name, address in self._addresses.items()
            if f"{address}/32" in routes
        }

    def _limit(self, name: str, node: Node, tunnel: Tunnel | None) -> int:
        assert node.record is not None
        peer = tunnel.peers.get(node.record.wireguard[0]) if tunnel else None
        endpoint = peer.endpoint if peer else None
        known = self._known.get(name)
        if known is None or known[0] is not node or known[1] != endpoint:
            mtu = peer_mtu(endpoint, self.here, node.record)
            known = self._known[name] = (node, endpoint, mtu)
        return known[2]

    @property
    def own(self) -> int:
        """What fits whichever way a peer takes to us."""
        return tunnel_mtu(self.here)

    @property
    def best(self) -> int:
        """What fits over the widest of our links."""
        return max((way.mtu for way in self.here), default=self.own)

    @property
    def device(self) -> int:
        """The MTU of the WireGuard device."""
        return device_mtu(self._limits.values(), self.own)

    @property
    def fits(self) -> dict[str, int]:
        """What fits into the tunnel to each peer."""
        return {name: self._sizes.fits(name) for name in self._limits}

    def fit(self, name: str) -> int:
        """Return what fits into the tunnel to one peer; 0 for a stranger."""
        return self._sizes.fits(name)

    def limit(self, name: str) -> int:
        """Return what should fit into the tunnel to one peer; 0 for a stranger."""
        return self._limits.get(name, 0)

    async def run(self) -> None:
        """Probe for ever."""
        while True:
            now = time.monotonic()
            asks, changed = self._sizes.step(now)
            for ask in asks:
                self._send(SizeProbe(ASK, ask.nonce).pack(ask.size), self._addresses[ask.node])
            if changed:
                self._changed()
            self._wake.clear()
            await happened(self._wake, max(SHORTEST_NAP, self._sizes.next_event(now)))

    def receive(self, data: bytes, node: str, address: str) -> None:
        """Answer a probe of size, or take in the answer to one of ours."""
        with contextlib.suppress(BadInput):
            probe = SizeProbe.parse(data)
            if probe.kind == ASK:
                self._send(SizeProbe(ANSWER, probe.nonce).pack(), address)
            else:
                self._answered(node, probe.nonce)

    def receive_bounced(self, data: bytes, node: str) -> None:
        """Take in a probe of ours that has arrived where no agent was."""
        with contextlib.suppress(BadInput):
            self._answered(node, SizeProbe.parse(data).nonce)

    def _answered(self, node: str, nonce: int) -> None:
        now = time.monotonic()
        due = self._sizes.next_event(now)
        if self._sizes.answered(node, nonce, now):
            self._changed()
        if self._sizes.next_event(now) < due:
            self._wake.set()
