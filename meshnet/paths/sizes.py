"""Pure. Which size of packet passes the tunnel to each peer, proven by probes that may not be cut.

    CONFIRMING ──full size unanswered for three rounds──▶ SEARCHING
        ▲   │                                              ▲    │
        │   └──now and then, where less than the limit fits┘    │
        └────────────────narrowed to 16 bytes───────────────────┘

A new peer, and one with a new limit, begins as CONFIRMING, and the limit is believed till then.

A peer that takes what it took is asked that one size. A round that follows silence asks several at
once: a small one, whose answer says that the peer is there, and those in question. Where the small
one stays unanswered too, the round says nothing. A search takes eight
sizes a round, so that two or three rounds find the largest that passes: routers that drop what is
too big without a word (RFC 4821 and 8899 are about them) cost some seconds and not a dead network.

The limit is what the links at both ends carry (see `plan.mtu`): there is nothing to be found above.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

ANSWER_LIMIT = 0.5
"""Seconds without an answer after which a size counts as too big."""
CONFIRM_EVERY = 5.0
"""Seconds between two rounds with a peer, at least; in a large mesh more, see `Sizes`."""
RAISE_EVERY = 15.0
"""Seconds until more is tried again than was last seen to pass."""
MISSES = 3
SMALL, LEAST, STEP = 64, 592, 16
AT_ONCE = 8


_NOTHING: Mapping[str, int] = {}


@dataclass(slots=True)
class _Peer:
    """`low` passes and `high` does not, as far as a search has come; `high` 0 is no search.

    `doubted`: the last round said nothing, or there was none.
    """

    limit: int
    fits: int
    at: float
    low: int = 0
    high: int = 0
    doubted: bool = True
    misses: int = 0
    raise_at: float = 0.0
    asked: dict[int, int] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Ask:
    """A probe to send: `size` bytes, IP header included."""

    node: str
    nonce: int
    size: int


class Sizes:
    """The sizes of all peers, by node id. Methods that learn return whether any size changed."""

    def __init__(self, rounds_per_second: float) -> None:
        self._rate = rounds_per_second
        self._peers: dict[str, _Peer] = {}
        self._reachable: frozenset[str] = frozenset()
        self._agenda: list[tuple[float, str]] = []
        self._nonce = 0

    def set_peers(
        self,
        limits: Mapping[str, int],
        reachable: Collection[str],
        now: float,
        adopted: Mapping[str, int] = _NOTHING,
    ) -> None:
        """Say how much each peer can take at most, in bytes, and who is there to be asked.

        `adopted` is what an earlier run has found; it is believed of peers that are new.
        """
        for gone in self._peers.keys() - limits.keys():
            del self._peers[gone]
        back = set(reachable) - self._reachable
        self._reachable = frozenset(reachable)
        turn = now
        for node, limit in sorted(limits.items()):
            known = self._peers.get(node)
            if known is None or known.limit != limit:
                fits = limit if known else min(limit, adopted.get(node, limit))
                known = self._peers[node] = _Peer(limit, fits, now)
            elif node not in back:
                continue
            turn += 1.0 / self._rate
            self._let(node, known, turn)

    @property
    def any(self) -> bool:
        """Whether there is any peer."""
        return bool(self._peers)

    def fits(self, node: str) -> int:
        """Return the largest size that passes, as far as is known; 0 for a stranger."""
        peer = self._peers.get(node)
        return peer.fits if peer else 0

    def next_event(self, now: float) -> float:
        """Return the seconds until `step` has something to do."""
        while self._agenda and not self._is_due(*self._agenda[0]):
            heapq.heappop(self._agenda)
        return max(0.0, self._agenda[0][0] - now) if self._agenda else CONFIRM_EVERY

    def _is_due(self, at: float, node: str) -> bool:
        """Say whether an entry of the agenda holds still."""
        peer = self._peers.get(node)
        return peer is not None and peer.at == at and node in self._reachable

    def step(self, now: float) -> tuple[list[Ask], bool]:
        """Begin the rounds that are due and end those whose time is over."""
        asks, changed = [], False
        while self._agenda and self._agenda[0][0] <= now:
            at, node = heapq.heappop(self._agenda)
            if not self._is_due(at, node):
                continue
            peer = self._peers[node]
            if peer.asked:
                changed |= self._judge(node, peer, now)
            else:
                asks += self._begin(node, peer, now)
        return asks, changed

    def answered(self, node: str, nonce: int, now: float) -> bool:
        """Take an answer in; a round that has all of them ends at once."""
        peer = self._peers.get(node)
        if peer is None or nonce not in peer.asked:
            return False
        peer.answered.add(peer.asked[nonce])
        return len(peer.answered) == len(peer.asked) and self._judge(node, peer, now)

    def _let(self, node: str, peer: _Peer, at: float) -> None:
        peer.at, peer.asked, peer.answered = at, {}, set()
        heapq.heappush(self._agenda, (at, node))

    def _begin(self, node: str, peer: _Peer, now: float) -> list[Ask]:
        if not peer.high and peer.fits < peer.limit and now >= peer.raise_at:
            peer.low, peer.high = peer.fits, peer.limit + 1
        sizes = between(peer.low, peer.high, peer.limit) if peer.high else [peer.fits]
        asks = []
        for size in (SMALL, *sizes) if peer.doubted or peer.high else sizes:
            self._nonce += 1
            asks.append(Ask(node, self._nonce, size))
        self._let(node, peer, now + ANSWER_LIMIT)
        peer.asked = {ask.nonce: ask.size for ask in asks}
        return asks

    def _judge(self, node: str, peer: _Peer, now: float) -> bool:
        """End a round; return whether it changed what fits."""
        got, asked = peer.answered, set(peer.asked.values())
        alone, peer.doubted = not peer.doubted and not peer.high, asked > got
        if not got:
            self._let(node, peer, now if alone else now + self._pause)
            return False
        if peer.high:
            return self._narrow(node, peer, got, asked, now)
        if peer.fits in got:
            peer.misses = 0
            self._let(node, peer, now + self._pause)
            return False
        peer.misses += 1
        if peer.misses >= MISSES:
            peer.low, peer.high = SMALL, peer.fits
        self._let(node, peer, now)
        return False

    def _narrow(self, node: str, peer: _Peer, got: set[int], asked: set[int], now: float) -> bool:
        peer.low = max(peer.low, *got)
        peer.high = min((size for size in asked - got if size > peer.low), default=peer.high)
        if between(peer.low, peer.high, peer.limit):
            self._let(node, peer, now)
            return False
        before, peer.fits = peer.fits, max(peer.low, LEAST)
        peer.low = peer.high = peer.misses = 0
        peer.raise_at = now + RAISE_EVERY
        self._let(node, peer, now + self._pause)
        return peer.fits != before

    @property
    def _pause(self) -> float:
        return max(CONFIRM_EVERY, len(self._peers) / self._rate)


def between(low: int, high: int, limit: int) -> list[int]:
    """Return up to AT_ONCE sizes above `low` and below `high`: the limit, and multiples of STEP."""
    top = [limit] if low < limit < high else []
    first, last = low // STEP + 1, (high - 1) // STEP
    room = last - first + 1
    every = max(1, -(-room // (AT_ONCE - len(top))))
    steps = [number * STEP for number in range(first + every - 1, last + 1, every)]
    if room > 0 and not steps:
        steps = [last * STEP]
    return sorted({*steps, *top})
