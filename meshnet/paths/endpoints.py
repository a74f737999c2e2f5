"""Pure. Which endpoint WireGuard is given for a peer that cannot be reached yet.

Both ends of a new pair learn of each other at about the same time. If both shake hands at once,
each drops the other's half-done handshake and five seconds are lost. So one of them begins: the
node whose record is older, for the newcomer has configured all its peers before it publishes its
record, and is ready. The other waits for HEAD_START and then tries as well, in case the first
cannot get through, or came before the newcomer had heard of it.

A node that comes back from a restart begins with all it knew before. They may hold sessions that
ended with its kernel, and WireGuard notices that a peer is deaf only after fifteen seconds.

Candidates are tried in turn, best guess first, each for TRY_FOR seconds (WireGuard repeats a
handshake every five). A peer that all of them have failed twice is most likely off, and each is
tried for longer from then on: a mesh with many nodes that are off would have all others change
their kernel all the time. When it comes back it begins. A peer that has been heard of through the
tunnel is left alone: roaming belongs to WireGuard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from meshnet.model.addresses import Address, Endpoint, Interface, Prefix
from meshnet.model.records import Candidate

HEAD_START = 0.5
TRY_FOR, DOUBLINGS = 5.5, 3
"""Seconds for which a candidate is tried, and how many times that is doubled in the end."""

_TRUST = {"static": 0, "local": 1, "mapped": 2, "stun": 3, "observed": 4}


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer as far as finding it goes. `begin`: this node is to shake hands first."""

    candidates: tuple[Endpoint, ...]
    begin: bool


@dataclass(slots=True)
class _Attempt:
    contact: Contact
    since: float
    index: int = -1
    changed_at: float = 0.0

    @property
    def ends(self) -> float:
        """When the candidate whose turn it is has been tried for long enough."""
        rounds = self.index // len(self.contact.candidates)
        return self.changed_at + TRY_FOR * (1 << min(max(0, rounds - 1), DOUBLINGS))


class Endpoints:
    """The attempts under way, by node id."""

    def __init__(self) -> None:
        self._attempts: dict[str, _Attempt] = {}

    def moved(self) -> None:
        """This host is elsewhere: what has failed may work now."""
        self._attempts.clear()

    def step(
        self, contacts: Mapping[str, Contact], reachable: frozenset[str], now: float
    ) -> dict[str, Endpoint]:
        """Return the endpoints to set now, for peers that are not reachable and whose turn came."""
        for done in self._attempts.keys() - (contacts.keys() - reachable):
            del self._attempts[done]
        chosen = {}
        for node in sorted(contacts.keys() - reachable):
            endpoint = self._choose(node, contacts[node], now)
            if endpoint is not None:
                chosen[node] = endpoint
        return chosen

    def _choose(self, node: str, contact: Contact, now: float) -> Endpoint | None:
        attempt = self._attempts.get(node)
        if attempt is None or attempt.contact.candidates != contact.candidates:
            attempt = self._attempts[node] = _Attempt(contact, now)
        if not contact.candidates:
            return None
        if attempt.index < 0:
            if not contact.begin and now - attempt.since < HEAD_START:
                return None
        elif now < attempt.ends or len(contact.candidates) == 1:
            return contact.candidates[attempt.index % len(contact.candidates)]
        attempt.index += 1
        attempt.changed_at = now
        return contact.candidates[attempt.index % len(contact.candidates)]

    def next_event(self, now: float) -> float | None:
        """Return the seconds until `step` may answer differently, None when only news can tell."""
        times = [due for attempt in self._attempts.values() if (due := _due(attempt)) is not None]
        return max(0.05, min(times) - now) if times else None


def _due(attempt: _Attempt) -> float | None:
    """Return when an attempt takes its next turn by itself; a single candidate has no next."""
    if attempt.index < 0:
        return attempt.since + HEAD_START if attempt.contact.candidates else None
    return attempt.ends if len(attempt.contact.candidates) > 1 else None


def ranked(
    candidates: Iterable[Candidate], own: Sequence[Interface], forbidden: Iterable[Prefix]
) -> tuple[Endpoint, ...]:
    """Return candidates, best guess first: on a subnet of ours, then by provenance, then IPv4.

    Addresses inside `forbidden` (the mesh's own prefixes) are left out: a tunnel in a tunnel would
    work until it does not. So are those of a family this host has no address of.
    """
    barred = tuple(forbidden)
    families = {interface.version for interface in own}
    usable = [
        candidate
        for candidate in candidates
        if not any(candidate.endpoint.address in prefix for prefix in barred)
        and (not families or candidate.endpoint.address.version in families)
    ]

    def key(candidate: Candidate) -> tuple[bool, int, int, Endpoint]:
        address = candidate.endpoint.address
        near = on_own_subnet(address, own)
        return (not near, _TRUST[candidate.provenance], address.version, candidate.endpoint)

    return tuple(candidate.endpoint for candidate in sorted(usable, key=key))


def on_own_subnet(address: Address, own: Iterable[Interface]) -> bool:
    """Say whether one of our interfaces is on the subnet of `address`."""
    return any(
        interface.version == address.version and address in interface.network for interface in own
    )
