"""Shell. Names that are not ours, asked of upstreams.

    query ─▶ cache? ─▶ the same question in flight? ─▶ a new flight: upstream 1, 2, … ─▶ SERVFAIL
              reply     wait with it                   reply to all who wait, keep in cache

A flight has a socket of its own, connected to the upstream, so its port is picked at random by the
kernel and nobody else's datagrams reach it; the ID is random as well and the question has to match
(RFC 5452). Queries that came by TCP are asked by TCP. An upstream that is silent is left for the
next one, and asked last from then on. If a query comes back to us by way of an upstream, it waits
with its own flight and ends with it: there is no loop.
"""

from __future__ import annotations

import os
from _socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_STREAM, socket

from meshnet.dns.cache import Cache
from meshnet.dns.poller import READ, WRITE, Poller
from meshnet.dns.query import CD, REFUSED, SERVFAIL
from meshnet.dns.response import read_response, upstream_query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from meshnet.dns.query import Query
    from meshnet.dns.response import Response

    Upstream = tuple[str, int]
    Deliver = Callable[[bytes], None]

FLIGHTS_MAX, PER_CLIENT_MAX = 256, 64
"""Most questions under way, and most of one client: it shall not take the others' share."""

WAITERS_MAX = 64
ATTEMPTS_MAX = 4
ATTEMPT_SECONDS = 1.2
"""Four attempts end within the five seconds that resolvers of the C library wait."""

DATAGRAM_MAX = 4096


class Forwarder:
    """The upstreams, the cache before them, and what is under way. `now` is set by the loop."""

    def __init__(self, poller: Poller) -> None:
        self.poller = poller
        self.now = 0.0
        self.cache = Cache()
        self.upstreams: list[Upstream] = []
        self.counts = dict.fromkeys(("asked", "cached", "joined", "failed", "refused"), 0)
        self._given: list[Upstream] = []
        self._own: set[Upstream] = set()
        self._flights: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def set_upstreams(self, upstreams: Iterable[Upstream]) -> None:
        """Ask these from now on, in this order."""
        self._given = list(upstreams)
        self.cache.clear()
        self._choose()

    def set_own(self, own: Iterable[Upstream]) -> None:
        """Never ask these: we listen there ourselves."""
        self._own = set(own)
        self._choose()

    def _choose(self) -> None:
        self.upstreams = [upstream for upstream in self._given if upstream not in self._own]

    def blame(self, upstream: Upstream) -> None:
        """Ask this upstream after all others from now on."""
        if upstream in self.upstreams:
            self.upstreams.remove(upstream)
            self.upstreams.append(upstream)

    def ask(self, query: Query, deliver: Deliver, client: str, tcp: bool) -> bytes | None:
        """Return the answer when it is known, else None: `deliver` is given it later."""
        if not self.upstreams:
            return query.refuse(REFUSED, False)
        kinds = bytes((query.dnssec, query.flags[1] & CD))
        key = query.name + query.question[-4:] + kinds
        found = self.cache.get(key, self.now)
        if found is not None:
            self.counts["cached"] += 1
            return found[0].reply(query, found[1])
        flight = self._flights.get(key + bytes((tcp,)))
        if flight is None and self._has_room(client):
            self.counts["asked"] += 1
            self._flights[key + bytes((tcp,))] = Flight(self, key, query, deliver, client, tcp)
        elif flight is not None and len(flight.waiters) < WAITERS_MAX:
            self.counts["joined"] += 1
            flight.waiters.append((query, deliver))
        else:
            self.counts["refused"] += 1
            return query.refuse(SERVFAIL, True)
        return None

    def _has_room(self, client: str) -> bool:
        own = sum(flight.client == client for flight in self._flights.values())
        return len(self._flights) < FLIGHTS_MAX and own < PER_CLIENT_MAX

    def land(self, flight: Flight, response: Response | None) -> None:
        """Give what came, or SERVFAIL, to all who wait."""
        self._flights.pop(flight.key + bytes((flight.tcp,)), None)
        if response is not None:
            self.cache.put(flight.key, response, self.now)
        else:
            self.counts["failed"] += 1
        for query, deliver in flight.waiters:
            deliver(response.reply(query, 0) if response else query.refuse(SERVFAIL, True))

    def sweep(self) -> None:
        """Go on with the flights whose upstream was silent for too long."""
        for flight in list(self._flights.values()):
            if self.now >= flight.deadline:
                flight.next_attempt()


class Flight:
    """One question under way to the upstreams. `client` is who asked first."""

    def __init__(
        self,
        owner: Forwarder,
        key: bytes,
        query: Query,
        deliver: Deliver,
        client: str,
        tcp: bool,
    ) -> None:
        self._owner = owner
        self._query = query
        self._extended = True
        self._attempts = 0
        self._sock: socket | None = None
        self._number = b""
        self._arrived = bytearray()
        self._untried = list(owner.upstreams)
        self._upstream = self._untried[0]
        self._best: Response | None = None
        self.key = key
        self.client = client
        self.tcp = tcp
        self.waiters = [(query, deliver)]
        self.deadline = 0.0
        self._attempt()

    def next_attempt(self) -> None:
        """Leave this upstream and ask the next one."""
        self._owner.blame(self._upstream)
        self._attempt()

    def _attempt(self) -> None:
        self._close()
        # A failure to open is met at the next round of the loop, not by calling down and down.
        self.deadline = self._owner.now
        if self._attempts >= ATTEMPTS_MAX or (not self._untried and not self._owner.upstreams):
            self._owner.land(self, self._best)
            return
        self._attempts += 1
        self._untried = self._untried or list(self._owner.upstreams)
        self._upstream = self._untried.pop(0)
        self._extended = True
        self._open()

    def _open(self) -> None:
        self._number = os.urandom(2)
        self._arrived.clear()
        family = AF_INET6 if ":" in self._upstream[0] else AF_INET
        kind = SOCK_STREAM if self.tcp else SOCK_DGRAM
        try:
            sock = self._sock = socket(family, kind | SOCK_NONBLOCK)
            sock.connect_ex(self._upstream)
            if not self.tcp:
                sock.send(upstream_query(self._number, self._query, self._extended))
        except OSError:
            return
        self.deadline = self._owner.now + ATTEMPT_SECONDS
        self._owner.poller.add(sock.fileno(), WRITE if self.tcp else READ, self._ready)

    def _ready(self, events: int) -> None:
        if self._sock is None:
            return
        try:
            if self.tcp and events & WRITE:
                self._send_framed(self._sock)
            else:
                self._receive(self._sock)
        except BlockingIOError:
            return
        except OSError:
            self.next_attempt()

    def _send_framed(self, sock: socket) -> None:
        message = upstream_query(self._number, self._query, self._extended)
        sock.send(len(message).to_bytes(2, "big") + message)
        self._owner.poller.change(sock.fileno(), READ)

    def _receive(self, sock: socket) -> None:
        data = sock.recv(DATAGRAM_MAX)
        if not self.tcp:
            self._consider(data)
            return
        if not data:
            self.next_attempt()
            return
        self._arrived += data
        if len(self._arrived) >= 2:
            end = 2 + int.from_bytes(self._arrived[:2], "big")
            if len(self._arrived) >= end:
                self._consider(bytes(self._arrived[2:end]))

    def _consider(self, data: bytes) -> None:
        """Take a response; one that is not to our query is as if it had not come."""
        response = read_response(data, self._number, self._query.question)
        if response is None:
            return
        if response.expected:
            self._close()
            self._owner.land(self, response)
        elif self._extended and response.plain_may_help:
            self._extended = False
            self._close()
            self._open()
        elif self._untried:
            self._best = response
            self._attempt()
        else:
            self._close()
            self._owner.land(self, response)

    def _close(self) -> None:
        if self._sock is not None:
            if self._sock.fileno() >= 0:
                self._owner.poller.remove(self._sock.fileno())
            self._sock.close()
            self._sock = None
