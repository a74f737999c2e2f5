"""Shell. Another WireGuard key for a node that is in the mesh.

    this node                                                     peers
    have the new key certified beside the old   ─ coordinator ─▶
    say both keys                               ─ any carrier ─▶  know it; nothing changes yet
    write the new key down, give it to the device
      ┊ what is sent waits in the kernel                          ┊ what they send still arrives
    say the new key alone                       ─ coordinator ─▶  hold it in the old one's place,
                                                ◀── handshake ──  and shake hands at once
    have it certified alone

Context: to WireGuard a device has one key and an address one owner. Whoever receives has to move
the address from the old key to the new one at some moment; what comes by the other key at that
moment is dropped. So nothing must be under way then, in the direction from this node to the peer.

Choice: one device. A new private key ends all sessions for sending and none for receiving, and
packets are kept in the kernel (128 a peer) until there is another session. There can be none before
the peer knows the key, so the peer takes it, the address moves, and only then packets flow again.
Two devices, one for each key, would not help: at the peer the address has one owner all the same,
and what this node sends by one device while the peer expects it by the other is lost.

Price: for as long as the word takes to the peers, some tens of milliseconds, packets wait, and of
more than 128 the oldest are lost. A coordinator must be there to carry it, since the tunnels
cannot. A peer that does not hear of it, as its agent is down, is cut off until it has. So those in
reach are asked first (their probes tell the digest of what they know), and without `force` nothing
is done while one of them is deaf. Those that know both keys find the new one by themselves, see
`plan.rotation`.

What is on disk says how far it has come, so an agent that is killed at any instant goes on from
there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from meshnet.agent.node import MeshNode
from meshnet.agent.storage import new_key
from meshnet.errors import Conflict, MeshnetError, Unavailable
from meshnet.model.keys import PrivateKey
from meshnet.plan.operations import ConfigureTunnel
from meshnet.wire.local import KeyRotated

log = logging.getLogger(__name__)

LEARN = 2.0
"""Seconds for which peers in reach may learn of the new key."""
SHAKE = 3.0
"""Seconds for which they may shake hands by it."""
ASK_AGAIN = 0.6
"""Seconds between questions: of a peer without an agent the kernel answers one a second."""
GLANCE = 0.05
RETRY = 1.0


class Certifier(Protocol):
    """Who has keys certified: the uplink to a coordinator."""

    @property
    def connected(self) -> bool: ...  # pragma: no cover

    async def certify(self, keys: Iterable[PrivateKey]) -> None: ...  # pragma: no cover


class Rotation:
    """Changes the key of one node, and goes on with what an earlier run has begun."""

    def __init__(self, node: MeshNode, certifier: Certifier) -> None:
        self._node = node
        self._certifier = certifier
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Go on with what was begun, whenever a coordinator is there."""
        while True:
            await asyncio.sleep(RETRY)
            if self._node.next_key and self._certifier.connected and not self._turn.locked():
                try:
                    await self.rotate()
                except MeshnetError as error:
                    log.warning("change of the WireGuard key: %s", error.message)

    async def rotate(self, *, force: bool = False) -> KeyRotated:
        """Change the key; it is the device's, and the mesh has been told, when this returns.

        Unavailable without a coordinator, Conflict while peers in reach do not know of the new key
        (unless `force`) or another change is under way; then the old key stays.
        """
        if self._turn.locked():
            raise Conflict("a change of this node's WireGuard key is under way")
        async with self._turn:
            if self._node.me is None or not self._certifier.connected:
                raise Unavailable(
                    "there is no coordinator to certify a new key and to tell the peers",
                    "See `meshnet status`, and try again when it is connected.",
                )
            await self._announce()
            if (deaf := await self._deaf()) and not force:
                self._withdraw()
                raise _unheard(deaf)
            return await self._change()

    async def _announce(self) -> None:
        node = self._node
        following = node.next_key or new_key()
        await self._certifier.certify((node.wireguard, following))
        node.state.save_keys(node.identity, node.wireguard, following)
        node.next_key = following
        node.speak()
        log.info("WireGuard key %s is to follow %s", following.public, node.wireguard.public)

    async def _deaf(self) -> list[str]:
        """Wait until all peers in reach know what we do; return the names of those that do not."""
        node, ours, deaf = self._node, set[str](), set(self._node.liveness.reachable)
        started = asked_at = time.monotonic()
        while True:
            ours.add(node.book.facts.digest)
            deaf -= {peer for peer, digest in node.digests.items() if digest in ours}
            now = time.monotonic()
            if not deaf or now > started + LEARN:
                return sorted(map(node.name_of, deaf))
            if now > asked_at + ASK_AGAIN:
                asked_at = now
                node.prober.greet(deaf)
            await asyncio.sleep(GLANCE)

    def _withdraw(self) -> None:
        node = self._node
        node.state.save_keys(node.identity, node.wireguard)
        node.next_key = None
        node.speak()

    async def _change(self) -> KeyRotated:
        node, previous = self._node, self._node.wireguard.public
        assert node.next_key is not None
        node.state.save_keys(node.identity, node.next_key)
        changed_at, reachable = time.time(), node.liveness.reachable
        node.device_key = node.next_key
        await self._until_device_has_it()
        # Our handshakes are to fail now, while nobody knows the key, and not to cross the peers'.
        node.prober.greet(reachable)
        node.wireguard, node.next_key = node.next_key, None
        node.speak()
        log.info("WireGuard key %s has followed %s", node.wireguard.public, previous)
        waiting = await self._strangers(reachable, changed_at)
        with suppress(MeshnetError):
            await self._certifier.certify(node.keys)
        return KeyRotated(
            public_key=str(node.wireguard.public),
            previous=str(previous),
            peers=len(reachable),
            waiting=tuple(waiting),
        )

    async def _until_device_has_it(self) -> None:
        while True:
            outcome = await self._node.reconciler.soon()
            refused = [error for op, error in outcome.failed if isinstance(op, ConfigureTunnel)]
            if not refused and not outcome.unread:
                return
            await asyncio.sleep(RETRY)

    async def _strangers(self, nodes: Iterable[str], since: float) -> list[str]:
        """Wait until these peers have shaken hands; return the names of those that have not."""
        node, deadline = self._node, time.monotonic() + SHAKE
        while True:
            await node.look()
            tunnel, members = node.kernel_state.tunnel, node.view.nodes
            records = {name: members[name].record for name in nodes if name in members}
            status = tunnel.status if tunnel else {}
            shaken = {key for key, peer in status.items() if peer.last_handshake >= since}
            left = [
                name
                for name, record in records.items()
                if record and shaken.isdisjoint(record.wireguard)
            ]
            if not left or time.monotonic() > deadline:
                return sorted(map(node.name_of, left))
            await asyncio.sleep(GLANCE)


def _unheard(names: list[str]) -> Conflict:
    return Conflict(
        f"{' '.join(names)} can be reached and would not hear of a new key: the old one stays",
        "See that their agents run, or give --force: they are cut off until they hear of it.",
    )
