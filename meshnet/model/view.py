"""Pure. The view: what holds, of all the facts there are.

A fact in the set is signed by its writer; whether it *holds* depends on others:

    root key ─certifies→ issuers ─sign→ statements: memberships, networks, leases, revocations, …
                                              │
    a record holds when its writer is a member whose certificate is valid now, and it owns what it
    speaks of: an attachment's addresses lie in leases of that node, an instance stands behind an
    attachment of that node, a WireGuard key is not one that another member has proved to hold.

`Viewer` derives the view from the set step by step: statements as a whole (they are few), records
writer by writer, and only for writers whose facts, membership or leases changed. Reading the same
facts in any order gives the same view. What is refused is kept beside it, with the reason.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

from meshnet.model.addresses import Address, gateway
from meshnet.model.facts import Fact, FactSet
from meshnet.model.keys import IdentityKey, PublicKey
from meshnet.model.patched import Patched
from meshnet.model.records import Attachment, Floor, Instance, NodeRecord, Record
from meshnet.model.statements import (
    Coordinators,
    Issuer,
    Lease,
    Membership,
    Mesh,
    Network,
    Revocation,
    Statement,
    StaticRecord,
)

NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Refusal:
    """A fact that does not hold although its signature does."""

    writer: IdentityKey
    kind: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.key!r} of {self.writer.node_id} refused: {self.reason}"


@dataclass(frozen=True, slots=True)
class Node:
    """A member and what it says of itself, as far as it holds. `record` is None until it speaks."""

    membership: Membership
    record: NodeRecord | None = None
    record_sequence: int = 0
    attachments: Mapping[tuple[str, str], Attachment] = field(default_factory=dict)
    instances: tuple[Instance, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def id(self) -> str:
        return self.membership.node

    @property
    def name(self) -> str:
        return self.membership.name


@dataclass(frozen=True, slots=True)
class Statements:
    """What the mesh says, valid now. `expires` is when the first of it stops to hold."""

    mesh: Mesh | None = None
    coordinators: Coordinators | None = None
    memberships: Mapping[str, Membership] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    leases: Mapping[str, tuple[Lease, ...]] = field(default_factory=dict)
    static: tuple[StaticRecord, ...] = ()
    revoked: frozenset[IdentityKey] = frozenset()
    expires: int = NEVER


@dataclass(frozen=True, slots=True)
class View:
    """All that holds at one time. Nodes by node id."""

    statements: Statements = field(default_factory=Statements)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    digest: str = ""

    @property
    def networks(self) -> Mapping[str, Network]:
        return self.statements.networks

    @property
    def refusals(self) -> list[Refusal]:
        return [refusal for node in self.nodes.values() for refusal in node.refusals]

    def named(self, name: str) -> Node | None:
        """Return the node of that name, or None."""
        return next((node for node in self.nodes.values() if node.name == name), None)

    def attachments(self, network: str) -> Iterator[tuple[Node, Attachment]]:
        """Yield a network's attachments, by node id and name."""
        for node in self.nodes.values():
            for attachment in node.attachments.values():
                if attachment.network == network:
                    yield node, attachment


class Viewer:
    """Derives views of one growing set of facts, doing again only what a change can touch."""

    def __init__(self, root: IdentityKey) -> None:
        self._root = root
        self._statements = Statements()
        self._derived_at = 0.0
        self._nodes: Mapping[str, Node] = {}
        self._claims: Mapping[PublicKey, str] = {}
        self._view = View()

    def view(self, facts: FactSet, changed: Iterable[Fact], now: float) -> View:
        """Return the view of `facts` at `now`; `changed` are those new since the last call.

        It is the same object while nothing changes.
        """
        changed = list(changed)
        writers = {fact.slot.writer for fact in changed}
        before = self._statements
        if self._statements_stale(changed, now):
            self._statements, self._derived_at = derive_statements(self._root, facts, now), now
            self._claims = proven_keys(self._statements)
        after = self._statements
        if after is not before:
            self._nodes = {
                node_id: self._node(membership, before, facts, writers)
                for node_id, membership in sorted(after.memberships.items())
            }
        elif changed:
            members = after.memberships.values()
            spoken = [member for member in members if member.identity in writers]
            news = {member.node: self._node(member, before, facts, writers) for member in spoken}
            self._nodes = Patched(self._nodes, news)
        if changed or after is not before or self._view.digest != facts.digest:
            self._view = View(after, self._nodes, facts.digest)
        return self._view

    def _statements_stale(self, changed: list[Fact], now: float) -> bool:
        by_mesh = any(fact.slot.kind in _STALING_KINDS for fact in changed)
        return by_mesh or not self.holds(now) or self._statements.mesh is None

    def holds(self, now: float) -> bool:
        """Say whether time alone has changed nothing: nothing ended, no clock was set back."""
        return self._derived_at <= now < self._statements.expires

    def _node(
        self,
        membership: Membership,
        before: Statements,
        facts: FactSet,
        writers: set[IdentityKey],
    ) -> Node:
        known = self._nodes.get(membership.node)
        after = self._statements
        if (
            known is not None
            and membership.identity not in writers
            and known.membership == membership
            and before.leases.get(membership.node) == after.leases.get(membership.node)
            and before.networks == after.networks
            and (before is after or self._keys_unchallenged(known))
        ):
            return known
        return derive_node(membership, after, self._claims, facts.of(membership.identity))

    def _keys_unchallenged(self, node: Node) -> bool:
        keys = node.record.wireguard if node.record else ()
        return all(self._claims.get(key, node.id) == node.id for key in keys) and not any(
            refusal.kind == NodeRecord.KIND for refusal in node.refusals
        )


_STATEMENT_KINDS = frozenset(
    kind.KIND
    for kind in (Issuer, Mesh, Membership, Network, Lease, StaticRecord, Revocation, Coordinators)
)
_STALING_KINDS = _STATEMENT_KINDS | {Floor.KIND}
"""An issuer's floor takes statements away."""


def derive_statements(root: IdentityKey, facts: FactSet, now: float) -> Statements:
    """Return what the mesh says at `now`: by certified issuers only, newest of each slot."""
    issuers, expiries = _issuers(root, facts, now)
    newest: dict[tuple[str, str], Fact] = {}
    for issuer in issuers:
        for fact in facts.of(issuer):
            slot = (fact.slot.kind, fact.slot.key)
            if fact.slot.kind in _STATEMENT_KINDS and fact.slot.kind != Issuer.KIND:
                known = newest.get(slot)
                if known is None or known.rank < fact.rank:
                    newest[slot] = fact
    bodies = [
        cast(Statement, newest[slot].body)
        for slot in sorted(newest)
        if newest[slot].body is not None
    ]
    revoked = frozenset(body.identity for body in bodies if isinstance(body, Revocation))
    memberships = _valid(bodies, Membership, now)
    leases = _valid(bodies, Lease, now)
    expiries += [membership.not_after for membership in memberships]
    expiries += [lease.not_after for lease in leases]
    return Statements(
        mesh=next((body for body in bodies if isinstance(body, Mesh)), None),
        coordinators=next((body for body in bodies if isinstance(body, Coordinators)), None),
        memberships={m.node: m for m in memberships if m.identity not in revoked},
        networks={body.name: body for body in bodies if isinstance(body, Network)},
        leases=_by_node(leases),
        static=tuple(body for body in bodies if isinstance(body, StaticRecord)),
        revoked=revoked,
        expires=min(expiries, default=NEVER),
    )


def _issuers(root: IdentityKey, facts: FactSet, now: float) -> tuple[list[IdentityKey], list[int]]:
    certificates = [
        fact.body
        for fact in facts.of(root)
        if isinstance(fact.body, Issuer) and fact.body.not_after > now
    ]
    return [body.key for body in certificates], [body.not_after for body in certificates]


_Expiring = TypeVar("_Expiring", Membership, Lease)


def _valid(bodies: list[Statement], kind: type[_Expiring], now: float) -> list[_Expiring]:
    return [body for body in bodies if isinstance(body, kind) and body.not_after > now]


def _by_node(leases: list[Lease]) -> dict[str, tuple[Lease, ...]]:
    by_node: dict[str, tuple[Lease, ...]] = {}
    for lease in leases:
        by_node[lease.node] = (*by_node.get(lease.node, ()), lease)
    return by_node


def proven_keys(statements: Statements) -> dict[PublicKey, str]:
    """Return who has proved to hold which WireGuard key; of rivals the lowest node id."""
    return {
        key: membership.node
        for membership in sorted(
            statements.memberships.values(), key=lambda m: m.node, reverse=True
        )
        for key in membership.wireguard
    }


def derive_node(
    membership: Membership,
    statements: Statements,
    proven: Mapping[PublicKey, str],
    facts: list[Fact],
) -> Node:
    """Return one member with those of its records that hold, and why the others do not."""
    refusals: list[Refusal] = []

    def holds(fact: Fact, reason: str) -> bool:
        if reason:
            refusals.append(Refusal(*fact.slot, reason))
        return not reason

    record, sequence = None, 0
    attachments: dict[tuple[str, str], Attachment] = {}
    instances: list[Instance] = []
    for fact in sorted(facts, key=lambda fact: isinstance(fact.body, Instance)):
        body = fact.body
        if not holds(fact, objection(body, membership, statements, proven, attachments)):
            continue
        if isinstance(body, NodeRecord):
            record, sequence = body, fact.sequence
        elif isinstance(body, Attachment):
            attachments[body.network, body.name] = body
        elif isinstance(body, Instance):
            instances.append(body)
    return Node(membership, record, sequence, attachments, tuple(instances), tuple(refusals))


def objection(
    body: Statement | Record | None,
    membership: Membership,
    statements: Statements,
    proven: Mapping[PublicKey, str],
    attachments: Container[tuple[str, str]],
) -> str:
    """Return why a member's word does not hold, or ''; `attachments` are those that do."""
    if isinstance(body, NodeRecord):
        return _key_theft(body, membership, proven)
    if isinstance(body, Attachment):
        return _address_theft(body, membership, statements)
    if isinstance(body, Instance):
        return _homeless(body, attachments)
    return "" if body is None or isinstance(body, Floor) else "only an issuer may state this"


def _key_theft(record: NodeRecord, membership: Membership, proven: Mapping[PublicKey, str]) -> str:
    for key in record.wireguard:
        owner = proven.get(key, membership.node)
        if owner != membership.node:
            return f"WireGuard key {key} belongs to node {owner}"
    return ""


def _address_theft(body: Attachment, membership: Membership, statements: Statements) -> str:
    network = statements.networks.get(body.network)
    if network is None:
        return f"there is no network {body.network}"
    leases = [
        lease.prefix
        for lease in statements.leases.get(membership.node, ())
        if lease.network == body.network
    ]
    gateways = {gateway(prefix) for prefix in network.prefixes}
    for address in body.addresses:
        if not any(address in prefix for prefix in leases):
            return f"address {address} is in no lease of the node"
        if address in gateways:
            return f"address {address} is the gateway of network {body.network}"
    return ""


def _homeless(body: Instance, attachments: Container[tuple[str, str]]) -> str:
    if (body.network, body.attachment) in attachments:
        return ""
    return f"the node has no attachment {body.attachment} on network {body.network}"


def addresses_of(node: Node, instance: Instance) -> tuple[Address, ...]:
    """Return the addresses an instance answers on: those of the attachment it stands behind."""
    return node.attachments[instance.network, instance.attachment].addresses
