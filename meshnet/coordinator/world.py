"""Pure. The mesh as the coordinator holds it in memory: all facts, in the order of revisions.

The store is the truth and this its image: it changes only after a commit. It answers three
questions at once: what came after revision N, who is a member, and why a record would not hold.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from meshnet.model.facts import STATEMENTS, Fact, FactSet, Slot
from meshnet.model.keys import IdentityKey, PublicKey
from meshnet.model.names import DEFAULT_NETWORK
from meshnet.model.records import Attachment, Instance
from meshnet.model.statements import Coordinators, Issuer, Membership, Mesh, Network
from meshnet.model.view import Statements, derive_statements, objection, proven_keys

FACTS_PER_NODE = 20_000
SLOTS_PER_NODE = 200_000
Latest = Callable[[Slot], Fact | None]


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit did."""

    revision: int
    facts: tuple[Fact, ...]
    forgotten: tuple[IdentityKey, ...] = ()


class World:
    """All facts, and what follows from them."""

    def __init__(self, root: IdentityKey, store: str, revision: int, horizon: int) -> None:
        self.root = root
        self.store = store
        self.revision = revision
        self.horizon = horizon
        self.facts = FactSet()
        self._log: OrderedDict[Slot, tuple[int, Fact]] = OrderedDict()
        self._counts: dict[IdentityKey, tuple[int, int]] = {}
        self._statements: Statements | None = None
        self._derived_at = 0.0
        self._members: dict[IdentityKey, Membership] = {}
        self._common: list[Fact] = []
        self._names: frozenset[str] = frozenset()
        self._offers: dict[str, set[Slot]] = {}
        self._proven: Mapping[PublicKey, str] = {}

    def load(self, facts: Iterable[tuple[Fact, int]]) -> None:
        """Take in what the store holds, older revisions first."""
        for fact, revision in facts:
            self._take(fact, revision)

    def apply(self, change: Change) -> None:
        """Follow a commit."""
        for writer in change.forgotten:
            self._forget(writer)
            self.horizon = change.revision
        for fact in change.facts:
            self._take(fact, change.revision)
        self.revision = change.revision

    def _take(self, fact: Fact, revision: int) -> None:
        known, void = self.facts.get(fact.slot), self.facts.voided_by(fact)
        if not self.facts.merge([fact]):
            return
        self._drop(void)
        live, slots = self._counts.get(fact.slot.writer, (0, 0))
        gained = (not fact.deleted) - (known is not None and not known.deleted)
        self._counts[fact.slot.writer] = (live + gained, slots + (known is None))
        self._note_offer(known, fact)
        self._log[fact.slot] = (revision, fact)
        self._log.move_to_end(fact.slot)
        if any(one.slot.kind in STATEMENTS for one in (fact, *void)):
            self._statements = None

    def _drop(self, void: Iterable[Fact]) -> None:
        """Follow the set, which has dropped these for their writer's floor."""
        for fact in void:
            live, slots = self._counts[fact.slot.writer]
            self._counts[fact.slot.writer] = (live - (not fact.deleted), slots - 1)
            self._note_offer(fact, None)
            del self._log[fact.slot]

    def _note_offer(self, known: Fact | None, fact: Fact | None) -> None:
        """Keep the index of who offers which service on the default network."""
        if known is not None and (service := _service(known)):
            self._offers.get(service, set()).discard(known.slot)
        if fact is not None and (service := _service(fact)):
            self._offers.setdefault(service, set()).add(fact.slot)

    def _forget(self, writer: IdentityKey) -> None:
        for fact in self.facts.of(writer):
            del self._log[fact.slot]
            self._note_offer(fact, None)
        self.facts.forget(writer)
        self._counts.pop(writer, None)

    # What came after

    def knows(self, revision: int) -> bool:
        """Say whether somebody at `revision` can be brought to the present by a delta."""
        return self.horizon <= revision <= self.revision

    def since(self, revision: int) -> list[Fact]:
        """Return the facts that came after `revision`, older first."""
        newer: list[Fact] = []
        for slot in reversed(self._log):
            at, fact = self._log[slot]
            if at <= revision:
                break
            newer.append(fact)
        newer.reverse()
        return newer

    # Who is a member, and what holds

    def statements(self, now: float) -> Statements:
        """Return what the mesh says at `now`."""
        known = self._statements
        if known is None or not self._derived_at <= now < known.expires:
            known = self._statements = derive_statements(self.root, self.facts, now)
            self._derived_at = now
            self._members = {m.identity: m for m in known.memberships.values()}
            self._names = frozenset(m.name for m in self._members.values())
            self._common = self._pick_common()
            self._proven = proven_keys(known)
        return known

    def common(self, now: float) -> list[Fact]:
        """Return the statements every node needs: issuers, mesh, coordinators, networks."""
        self.statements(now)
        return self._common

    def _pick_common(self) -> list[Fact]:
        certificates = self.facts.of(self.root)
        issuers = sorted({fact.body.key for fact in certificates if isinstance(fact.body, Issuer)})
        stated = [fact for issuer in issuers for fact in self.facts.of(issuer)]
        kinds = Issuer | Mesh | Coordinators | Network
        return [fact for fact in [*certificates, *stated] if isinstance(fact.body, kinds)]

    def member(self, identity: IdentityKey, now: float) -> Membership | None:
        """Return the certificate of a member that holds at `now`."""
        self.statements(now)
        return self._members.get(identity)

    def former_member(self, identity: IdentityKey, now: float) -> Membership | None:
        """Return the newest certificate of an identity, ended or not, unless it was revoked."""
        if identity in self.statements(now).revoked:
            return None
        return derive_statements(self.root, self.facts, 0).memberships.get(identity.node_id)

    def key_holder(self, key: PublicKey, now: float) -> str:
        """Return the node that proved to hold a WireGuard key, or ''."""
        self.statements(now)
        return self._proven.get(key, "")

    def objection(self, fact: Fact, member: Membership, latest: Latest) -> str:
        """Return why a member's record would not hold, or ''.

        `latest` is what is known of a slot, this fact's fellows included. Ask `statements` for the
        time at hand before.
        """
        statements = self._statements or Statements()
        ports = _Ports(member.identity, latest)
        reason = objection(fact.body, member, statements, self._proven, ports)
        return reason or self._name_clash(fact, statements)

    def _name_clash(self, fact: Fact, statements: Statements) -> str:
        service = _service(fact)
        if service in statements.networks:
            return f"service name {service} is that of a network"
        return f"service name {service} is that of a node" if service in self._names else ""

    def is_full(self, writer: IdentityKey) -> bool:
        """Say whether a node has said as much as one may; what it took back counts little."""
        live, slots = self._counts.get(writer, (0, 0))
        return live >= FACTS_PER_NODE or slots >= SLOTS_PER_NODE

    def offers_service(self, name: str, now: float) -> bool:
        """Say whether a service of the default network has that name."""
        self.statements(now)
        return any(slot.writer in self._members for slot in self._offers.get(name, ()))

    def attached(
        self, network: str, now: float, *, hosts: bool = False
    ) -> list[tuple[str, Attachment]]:
        """Return node names and attachments of a network, with those of hosts themselves or not."""
        return [
            (self._members[fact.slot.writer].name, fact.body)
            for fact in self._records(now)
            if isinstance(fact.body, Attachment)
            and fact.body.network == network
            and (hosts or not fact.body.host)
        ]

    def _records(self, now: float) -> Iterator[Fact]:
        self.statements(now)
        for identity in sorted(self._members):
            yield from self.facts.of(identity)

    def network(self, name: str, now: float) -> Network | None:
        return self.statements(now).networks.get(name)


def _service(fact: Fact) -> str:
    """Return the service that a fact offers on the default network, or ''."""
    body = fact.body
    offers = isinstance(body, Instance) and body.network == DEFAULT_NETWORK
    return body.service if offers and isinstance(body, Instance) else ""


class _Ports(Container[tuple[str, str]]):
    """The attachments a node has said, by network and name."""

    def __init__(self, identity: IdentityKey, latest: Latest) -> None:
        self._identity = identity
        self._latest = latest

    def __contains__(self, key: object) -> bool:
        assert isinstance(key, tuple)
        network, name = key
        fact = self._latest(Slot(self._identity, Attachment.KIND, f"{network} {name}"))
        return fact is not None and not fact.deleted
