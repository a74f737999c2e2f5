"""Shell. Probes through the tunnel: one UDP socket on the node's IPv4 mesh address.

`paths.liveness` decides whom to ask and what silence means; this task sends, answers and tells.
Answers carry the peer's digest of facts, which is how nodes notice without any coordinator that one
of them knows more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address

from meshnet.errors import BadInput
from meshnet.paths.liveness import Liveness
from meshnet.wire.probe import ANSWER, ASK, Probe

log = logging.getLogger(__name__)

AGENT_PORT = 7420
IP_FREEBIND = 15
DRAIN = 256
SHORTEST_NAP = 0.02


class Prober:
    """`peers` maps mesh addresses to node ids. `changed` is called with nodes gained or lost."""

    def __init__(
        self,
        liveness: Liveness,
        digest: Callable[[], str],
        changed: Callable[[set[str]], None],
        told: Callable[[str, str], None],
    ) -> None:
        self.liveness = liveness
        self._digest = digest
        self._changed = changed
        self._told = told
        self._peers: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        self._socket: socket.socket | None = None
        self._wake = asyncio.Event()

    def set_peers(self, addresses: Mapping[str, IPv4Address]) -> None:
        """Say who the peers are: node id → mesh address."""
        self._addresses = {node: str(address) for node, address in addresses.items()}
        self._peers = {address: node for node, address in self._addresses.items()}
        self.liveness.set_peers(self._addresses.keys(), time.monotonic())
        self._wake.set()

    def suspect(self, node: str) -> None:
        """Ask this peer now."""
        self.liveness.suspect(node, time.monotonic())
        self._wake.set()

    def open(self, address: IPv4Address) -> None:
        """Bind to the node's mesh address; it need not be there yet."""
        self.close()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        sock.bind((str(address), AGENT_PORT))
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self._read)

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def run(self) -> None:
        """Probe for ever."""
        try:
            while True:
                self._step(time.monotonic())
                nap = max(SHORTEST_NAP, self.liveness.next_event(time.monotonic()))
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), nap)
        finally:
            self.close()

    def _step(self, now: float) -> None:
        lost = self.liveness.missed(now)
        if self._socket is not None:
            digest = self._digest()
            for node, nonce in self.liveness.due(now):
                self._send(Probe(ASK, nonce, digest), self._addresses[node])
        if lost:
            self._changed(lost)

    def _send(self, probe: Probe, address: str) -> None:
        assert self._socket is not None
        # No endpoint yet, no route, a full buffer: all of it is one probe lost, and counted so.
        with contextlib.suppress(OSError):
            self._socket.sendto(probe.pack(), (address, AGENT_PORT))

    def _read(self) -> None:
        for _ in range(DRAIN):
            try:
                assert self._socket is not None
                data, (address, *_rest) = self._socket.recvfrom(2048)
            except (BlockingIOError, AssertionError):
                return
            except OSError as error:
                log.debug("probe socket: %s", error)
                continue
            self._receive(data, address)

    def _receive(self, data: bytes, address: str) -> None:
        node = self._peers.get(address)
        if node is None:
            return
        try:
            probe = Probe.parse(data)
        except BadInput as error:
            log.debug("from %s: %s", address, error.message)
            return
        now = time.monotonic()
        if probe.kind == ASK:
            self._send(Probe(ANSWER, probe.nonce, self._digest()), address)
            if self.liveness.heard(node, now):
                self._wake.set()
        elif found := self.liveness.answered(node, probe.nonce, now):
            self._changed(found)
        self._told(node, probe.digest)
