"""Pure. Whether each peer can be reached now, by small probes through the tunnel.

    UNKNOWN ──reply──▶ REACHABLE ──three probes unanswered──▶ UNREACHABLE
       ▲                   ▲                                      │
    new peer               └───────────────reply──────────────────┘

A reachable peer is probed once in `idle_interval` or so (one second for up to five peers, longer
for more: some five probes a second). After a missed answer it is probed in quick succession; three
misses in a row and it is unreachable: within two seconds in a small mesh. A peer that is not
reachable is probed with growing pauses, which is also what makes WireGuard shake hands.

Context: n nodes have n² pairs, and in a large mesh nobody can look at all peers every second.
Choice: every node is looked at five times a second by somebody, however many there are, and who
finds it gone tells the others (`is_sparse`, and hints in `wire.probe`), so that all know within
three seconds or so. A hint, whoever gives it, only makes us probe at once. A peer that we send to
and that says nothing is probed at once, too (`plan.silence`). Price: where a single path breaks
that nobody uses, that is noticed when its turn comes.

Who did not look cannot say that nobody came: a verdict that is due while this process gets no time
(a starved host, a suspended machine) is put off, and no second probe is sent meanwhile. Otherwise a
busy second would make every peer unreachable at once, and the probes that follow keep it busy. For
the same reason a node of a large mesh that comes late to its turns asks less often (`strain`), and
one that misses most answers waits longer for each (`answer_limit`): that many peers do not die at
once, so it is our own link or host, or everybody's. Nor is a path gone that has become slow: an
answer is waited for as long as TCP would (RFC 6298, section 2), and one to any of the last MISSES
probes counts.

What is due next is read off two heaps, so that a moment in which one of a thousand peers has its
turn costs one peer's work. An entry that is no longer true is dropped when it comes up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from heapq import heappop, heappush
from math import ceil, inf
from zlib import crc32

PROBES_PER_SECOND = 5
EAGERNESS = 10
"""How many times as many probes a second may go to peers that have not answered yet."""
BEAT = 0.5
"""Seconds between the turns of a large mesh: several probes at a time cost a node one awakening.
Each node has beats of its own, since many may share a clock and a core."""
ANSWER_LIMIT = 0.4
"""Seconds without an answer after which a probe counts as missed, while most are answered."""
MISSES = 3
MANY, MOST = 0.4, 0.8
"""Shares of missed answers above which a node waits longer, and from which it waits LONGEST times
as long."""
LONGEST = 5.0
MEMORY = 0.1
"""Weight of one probe in that share: three misses in a row are no more than 0.27."""
BRIEF = 10.0
"""Seconds within which a peer that was lost is back when it was slow and not gone."""
SLOWEST = 5.0
"""Seconds at most for which an answer is waited for on a path that is known to be slow."""
TOLERABLE, WORST = 0.1, 2.0
"""Seconds by which turns may be late, on average, before a node asks half as often, and beyond
which it makes no more difference. Where many share a starved core, what all of them ask and answer
is what starves it: asking rarely is the way out."""
LATE = ANSWER_LIMIT
"""Seconds by which a verdict may be late and still count: later than that it is our own fault."""
EAGER = 0.1
PATIENT = 5.0
"""Seconds between probes of a peer that has never answered: from EAGER, doubling, to PATIENT."""


class Reach(Enum):
    """What we know of a peer."""

    UNKNOWN = "unknown"
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"


@dataclass(slots=True)
class _Peer:
    reach: Reach
    since: float
    next_probe: float
    heard_at: float = -inf
    pause: float = EAGER
    asked: tuple[tuple[int, float], ...] = ()
    verdict_at: float | None = None
    misses: int = 0
    round_trip: float | None = None
    variation: float = 0.0

    def measured(self, sample: float, now: float) -> None:
        """Take in a round trip (RFC 6298, with more weight: there are few samples). The first one
        after a while tells little: the path had to be made, by a handshake perhaps."""
        back = self.reach is Reach.UNREACHABLE and now - self.since < BRIEF
        if not back and self.reach is not Reach.REACHABLE:
            self.round_trip, self.variation = sample, 0.0
            return
        if self.round_trip is None or not self.variation:
            self.round_trip, self.variation = sample, sample / 2
            return
        self.variation += 0.25 * (abs(self.round_trip - sample) - self.variation)
        self.round_trip += 0.2 * (sample - self.round_trip)

    @property
    def awaited(self) -> bool:
        """Whether nothing is to be asked before the verdict on the last probe."""
        return self.reach is Reach.REACHABLE and self.verdict_at is not None


class Liveness:
    """The state of all peers, by node id. Methods return ids whose reachability has changed."""

    def __init__(self, probes_per_second: float = PROBES_PER_SECOND, own: str = "") -> None:
        """`own` is this node's id, so that no two nodes draw the same lots."""
        self._rate = probes_per_second
        self._own = own
        self._beat = BEAT * _lot(own)
        self._peers: dict[str, _Peer] = {}
        self._reachable: frozenset[str] | None = None
        self._probes: list[tuple[float, str]] = []
        self._verdicts: list[tuple[float, str]] = []
        self._late = 0.0
        self._missed = 0.0
        self._nonce = 0

    def set_peers(self, peers: Collection[str], now: float) -> None:
        """Begin to watch those that are new, forget those that are gone."""
        for gone in self._peers.keys() - set(peers):
            del self._peers[gone]
            self._reachable = None
        for new in sorted(set(peers) - self._peers.keys()):
            self._peers[new] = _Peer(Reach.UNKNOWN, now, now)
            heappush(self._probes, (now, new))

    @property
    def idle_interval(self) -> float:
        return max(1.0, len(self._peers) / self._rate)

    @property
    def strain(self) -> float:
        """How many times as long a node waits between probes because it has too little time."""
        return 1.0 + min(self._late, WORST) / TOLERABLE if self.is_sparse else 1.0

    @property
    def answer_limit(self) -> float:
        """Seconds without an answer after which a probe counts as missed."""
        share = (min(self._missed, MOST) - MANY) / (MOST - MANY)
        return ANSWER_LIMIT * (1.0 + (LONGEST - 1.0) * max(0.0, share))

    @property
    def is_deaf(self) -> bool:
        """Whether this node misses so many answers that it does not believe its own verdicts."""
        return self.answer_limit > ANSWER_LIMIT

    @property
    def is_sparse(self) -> bool:
        """Whether this node looks at its peers so rarely that they should tell each other."""
        return len(self._peers) > self._rate

    @property
    def reachable(self) -> frozenset[str]:
        if self._reachable is None:
            self._reachable = frozenset(
                node for node, peer in self._peers.items() if peer.reach is Reach.REACHABLE
            )
        return self._reachable

    def reach(self, node: str) -> Reach:
        peer = self._peers.get(node)
        return peer.reach if peer else Reach.UNKNOWN

    def is_doubted(self, node: str) -> bool:
        """Say whether a reachable peer has not answered the last time."""
        peer = self._peers.get(node)
        return peer is not None and peer.reach is Reach.REACHABLE and peer.misses > 0

    def since(self, node: str) -> float | None:
        """Return when the peer entered its present state."""
        peer = self._peers.get(node)
        return peer.since if peer else None

    def round_trip(self, node: str) -> float | None:
        """Return the smoothed round trip in seconds, None before the first answer."""
        peer = self._peers.get(node)
        return peer.round_trip if peer else None

    def due(self, now: float) -> Iterator[tuple[str, int]]:
        """Yield (node, nonce) of every probe to send now; each counts as sent."""
        ripe, late = set(), 0.0
        while (entry := self._first_probe()) and entry[0] <= now:
            late = max(late, now - entry[0])
            ripe.add(heappop(self._probes)[1])
        if ripe:
            self._late += 0.1 * (min(late, WORST) - self._late)
        for node in sorted(ripe):
            peer = self._peers[node]
            self._nonce += 1
            peer.asked = (*peer.asked, (self._nonce, now))[-MISSES:]
            self._judge(node, peer, now + self._limit(peer))
            self._ask(node, peer, now + self._patience(peer))
            yield node, self._nonce

    def _ask(self, node: str, peer: _Peer, at: float) -> None:
        peer.next_probe = at
        heappush(self._probes, (at, node))

    def _judge(self, node: str, peer: _Peer, at: float) -> None:
        peer.verdict_at = at
        heappush(self._verdicts, (at, node))

    def _first_probe(self) -> tuple[float, str] | None:
        """Return the next probe there is to send; `missed` puts back what awaits a verdict."""
        while self._probes:
            at, node = self._probes[0]
            peer = self._peers.get(node)
            if peer is not None and peer.next_probe == at and not peer.awaited:
                return at, node
            heappop(self._probes)
        return None

    def _first_verdict(self) -> tuple[float, str] | None:
        while self._verdicts:
            at, node = self._verdicts[0]
            peer = self._peers.get(node)
            if peer is not None and peer.verdict_at == at:
                return at, node
            heappop(self._verdicts)
        return None

    def _limit(self, peer: _Peer) -> float:
        slow = (peer.round_trip or 0.0) + 4.0 * peer.variation if peer.variation else 0.0
        return max(self.answer_limit, min(slow, SLOWEST))

    def _patience(self, peer: _Peer) -> float:
        if peer.reach is Reach.REACHABLE:
            return self._limit(peer)
        peer.pause = min(peer.pause * 2, PATIENT)
        patience = len(self._peers) / self._rate
        patience = patience if peer.pause == PATIENT else patience / EAGERNESS
        return self.strain * max(peer.pause, patience)

    def missed(self, now: float) -> set[str]:
        """Count probes that stayed unanswered; return peers that became unreachable by it."""
        lost = set()
        while (entry := self._first_verdict()) and entry[0] <= now:
            due, node = heappop(self._verdicts)
            peer = self._peers[node]
            if now - due > LATE:
                self._judge(node, peer, now + self._limit(peer))
                continue
            peer.verdict_at = None
            peer.misses += 1
            if peer.reach is Reach.REACHABLE:
                self._missed += MEMORY * (1.0 - self._missed)
            if peer.reach is Reach.REACHABLE and peer.misses >= MISSES:
                peer.reach, peer.since, peer.pause = Reach.UNREACHABLE, now, EAGER
                self._reachable = None
                lost.add(node)
            self._ask(node, peer, peer.next_probe)
        return lost

    def answered(self, node: str, nonce: int, now: float) -> set[str]:
        """Take an answer in; return the peer when it became reachable by it."""
        peer = self._peers.get(node)
        sent_at = dict(peer.asked).get(nonce) if peer else None
        if peer is None or sent_at is None:
            return set()
        if not peer.misses:  # an answer in time: one that is late says the limit is too short
            self._missed -= MEMORY * self._missed
        peer.measured(now - sent_at, now)
        peer.asked, peer.verdict_at, peer.misses, peer.heard_at = (), None, 0, now
        self._ask(node, peer, self._next_turn(node, now))
        return self._found(node, peer, now)

    def _next_turn(self, node: str, now: float) -> float:
        """Return when a peer that has answered is asked again: now sooner and now later, by lot, so
        that a node is not looked at by all the others in the same moment, and what probes tell
        besides (see `wire.probe`) spreads at all times."""
        lot = _lot(f"{self._own} {node} {self._nonce}")
        turn = now + 1.0 + 2.0 * (self.strain * self.idle_interval - 1.0) * lot
        beats = ceil((turn - self._beat) / BEAT)
        return self._beat + BEAT * beats if self.is_sparse else turn

    def heard(self, node: str, now: float) -> bool:
        """A probe of theirs came through the tunnel: say whether we thought them gone, and ask."""
        peer = self._peers.get(node)
        if peer is None or peer.reach is Reach.REACHABLE:
            return False
        peer.pause = EAGER
        self._ask(node, peer, now)
        return True

    def suspect(self, node: str, now: float) -> None:
        """Probe this peer at once, unless it has just answered: somebody believes it is gone."""
        peer = self._peers.get(node)
        if peer is not None and now < peer.next_probe and now - peer.heard_at > ANSWER_LIMIT:
            self._ask(node, peer, now)

    def _found(self, node: str, peer: _Peer, now: float) -> set[str]:
        if peer.reach is Reach.REACHABLE:
            return set()
        peer.reach, peer.since, peer.pause = Reach.REACHABLE, now, EAGER
        self._reachable = None
        return {node}

    def next_event(self, now: float) -> float:
        """Return the seconds until `due` or `missed` has something to do."""
        entries = (self._first_probe(), self._first_verdict())
        return max(0.0, min((entry[0] for entry in entries if entry), default=now + 1.0) - now)


def _lot(words: str) -> float:
    """Return a number in 0..1 that is always the same for these words."""
    return crc32(words.encode()) / 2**32
