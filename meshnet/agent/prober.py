"""Shell. Probes through the tunnel: one UDP socket on the node's IPv4 mesh address.

`paths.liveness` decides whom to ask and what silence means; this task sends, answers and tells.
Answers carry the peer's digest of facts, which is how nodes notice without any coordinator that one
of them knows more. In a mesh so large that each node asks rarely, whoever finds a peer gone gives
the others a hint, once: those whom a hint has made look pass none on.

Where the peer's agent is down, its kernel answers for it, and the probe comes back bounced. The
tunnel and the containers behind it are as reachable as ever then, so this counts as an answer, and
restarting an agent takes nothing out of anybody's DNS. An agent that is there and gets no time (a
starved host, a stopped process) answers nothing and nothing bounces: once an answer was missed, the
peer's kernel is asked, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import IPv4Address

from meshnet.agent.mtus import Mtus
from meshnet.agent.sockets import Datagrams, Sockets
from meshnet.agent.waiting import happened
from meshnet.errors import BadInput
from meshnet.model.addresses import Endpoint
from meshnet.paths.liveness import Liveness, Reach
from meshnet.wire.probe import ANSWER, ASK, HINT_LIMIT, HINT_MAGIC, SIZE_MAGIC, Hint, Probe

log = logging.getLogger(__name__)

SHORTEST_NAP = 0.02
NO_NONCE = 0
"""Of a probe that `liveness` has not asked for."""


class Prober:
    """`peers` maps mesh addresses to node ids. `changed` is called with nodes gained or lost.

    Probes of size that come in, or come back, are for `mtus`.
    """

    def __init__(
        self,
        sockets: Sockets,
        liveness: Liveness,
        digest: Callable[[], str],
        changed: Callable[[set[str]], None],
        told: Callable[[str, Probe], None],
        endpoint: Callable[[str], Endpoint | None],
        mtus: Mtus,
    ) -> None:
        self._sockets = sockets
        self.liveness = liveness
        self._digest = digest
        self._changed = changed
        self._told = told
        self._endpoint = endpoint
        self._mtus = mtus
        self._peers: dict[str, str] = {}
        self._given: Mapping[str, IPv4Address] = {}
        self._addresses: dict[str, str] = {}
        self._held: frozenset[str] = frozenset()
        self._heard: set[str] = set()
        self._hinted: set[str] = set()
        self._socket: Datagrams | None = None
        self._wake = asyncio.Event()

    def set_peers(self, addresses: Mapping[str, IPv4Address]) -> None:
        """Say who the peers are: node id → mesh address."""
        if addresses == self._given:
            return
        self._given = addresses
        self._addresses = {node: str(address) for node, address in addresses.items()}
        self._peers = {address: node for node, address in self._addresses.items()}
        self.liveness.set_peers(self._addresses.keys(), time.monotonic())
        self._heard &= self._addresses.keys()
        self._hinted &= self._addresses.keys()
        self._wake.set()

    def suspect(self, node: str) -> None:
        """Ask this peer now."""
        self.liveness.suspect(node, time.monotonic())
        self._wake.set()

    def hint(self, node: str) -> None:
        """Ask this peer now that was there until now; the others have been told of it, too."""
        if self.liveness.reach(node) is Reach.REACHABLE:
            self._hinted.add(node)
            self.suspect(node)

    def hurry(self, nodes: Iterable[str]) -> None:
        """Ask these at once: WireGuard shakes hands when it has something to send."""
        for node in nodes:
            self.suspect(node)

    def greet(self, nodes: Iterable[str]) -> None:
        """Send these something now; whether they answer is no verdict on them."""
        for node in sorted(nodes):
            if node in self._addresses:
                self._send(Probe(ASK, NO_NONCE, self._digest()), self._addresses[node])

    def hold(self, nodes: Collection[str]) -> None:
        """Do not ask these, unless they have asked us: then the tunnel is there."""
        released, self._held = self._held.difference(nodes), frozenset(nodes)
        self.hurry(released)

    def open(self, address: IPv4Address) -> None:
        """Send and receive from now on, as this mesh address."""
        self.close()
        self._socket = self._sockets.datagrams(address, self._receive, self._receive_bounced)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def run(self) -> None:
        """Probe for ever."""
        try:
            while True:
                self._step(time.monotonic())
                nap = max(SHORTEST_NAP, self.liveness.next_event(time.monotonic()))
                self._wake.clear()
                await happened(self._wake, nap)
        finally:
            self.close()

    def _step(self, now: float) -> None:
        lost = self.liveness.missed(now)
        if self._socket is not None:
            digest = self._digest()
            silent = self._held - self._heard
            for node, nonce in self.liveness.due(now):
                if node in silent:
                    continue
                self._ask(node, Probe(ASK, nonce, digest))
        if lost:
            self._heard -= lost
            self._pass_on(lost - self._hinted)
            self._hinted -= lost
            self._changed(lost)

    def _ask(self, node: str, probe: Probe) -> None:
        address = self._addresses[node]
        self._send(probe, address)
        if self._socket is not None and self.liveness.is_doubted(node):
            self._socket.echo(probe.pack(), address)

    def _pass_on(self, lost: set[str]) -> None:
        """Tell the others of peers that this node has found gone, if it believes that itself."""
        if not self.liveness.is_sparse or self.liveness.is_deaf:
            return
        addresses = [IPv4Address(self._addresses[node]) for node in sorted(lost)]
        for start in range(0, len(addresses), HINT_LIMIT):
            hint = Hint(tuple(addresses[start : start + HINT_LIMIT])).pack()
            for node in sorted(self.liveness.reachable):
                self.send(hint, self._addresses[node])

    def _send(self, probe: Probe, address: str) -> None:
        self.send(probe.pack(), address)

    def send(self, data: bytes, address: str) -> None:
        """Send a packet to a mesh address, once there is a socket."""
        if self._socket is not None:
            self._socket.send(data, address)

    def _receive_bounced(self, data: bytes, address: str) -> None:
        node = self._peers.get(address)
        if node and data.startswith(SIZE_MAGIC):
            self._mtus.receive_bounced(data, node)
            return
        with contextlib.suppress(BadInput):
            nonce = Probe.parse(data).nonce
            if node:
                self._answered(node, nonce, time.monotonic())

    def _receive(self, data: bytes, address: str) -> None:
        node = self._peers.get(address)
        if node is None:
            return
        if data.startswith(SIZE_MAGIC):
            self._mtus.receive(data, node, address)
            return
        try:
            if data.startswith(HINT_MAGIC):
                self._take_hint(Hint.parse(data))
            else:
                self._take(Probe.parse(data), node, address)
        except BadInput as error:
            log.debug("from %s: %s", address, error.message)

    def _take_hint(self, hint: Hint) -> None:
        for address in hint.addresses:
            if node := self._peers.get(str(address)):
                self.hint(node)

    def _take(self, probe: Probe, node: str, address: str) -> None:
        now = time.monotonic()
        if probe.kind == ASK:
            self._send(Probe(ANSWER, probe.nonce, self._digest(), self._endpoint(node)), address)
            self._heard.add(node)
            if self.liveness.heard(node, now):
                self._wake.set()
        else:
            self._answered(node, probe.nonce, now)
        self._told(node, probe)

    def _answered(self, node: str, nonce: int, now: float) -> None:
        self._hinted.discard(node)
        if found := self.liveness.answered(node, nonce, now):
            self._changed(found)
