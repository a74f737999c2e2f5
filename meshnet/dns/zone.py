"""Pure. The zone `mesh.` and our reverse zones: from the view to tables of names.

    web.mesh                  service, in the asker's network, else `default`, else in all others
    web.appnet.mesh           service `web` in network `appnet`
    c1.web.appnet.mesh        one instance, by its attachment; c1.web.mesh with the network as above
    c1.web.appnet.node3.mesh  the same, where several nodes have a c1: what SRV points to then
    web.node3.mesh            the instances on one node, network chosen as above
    c1.appnet.mesh            an attachment; c1.mesh in the asker's network, else `default`
    node3.mesh                the node's mesh addresses, reachable or not
    _http._tcp.web.mesh       SRV by port name, or by the port's well-known name
    ns.mesh                   the server that was asked

**What is answered.** Instances that are healthy, have weight and whose node is reachable (our own
always is). A service or attachment with nothing to answer keeps its name, without records: that is
NODATA, and not NXDOMAIN.

**When labels collide**, for each full name the first of these that has it wins, whole:
static record, node, network, service, attachment. So a node `web` takes `web.mesh` from a service
`web`, which stays reachable as `web.default.mesh`. A network has no records at its own name, so it
takes nothing there.

**How it stays cheap.** Names are claimed by subjects (one node, one service, one attachment name;
see `dns.book`). When the view changes, the subjects that changed make their claims again, and only
the names they touch are decided anew. The rest is comparing nodes by identity and copying the one
mapping that changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from meshnet.dns.book import Book, Claim
from meshnet.dns.naming import (
    ATTACHMENT_RANK,
    EMPTY_RANK,
    NETWORK_RANK,
    NODE_RANK,
    SERVICE_RANK,
    STATIC_RANK,
    Member,
    Place,
    attachment_claims,
    below,
    crowded_claims,
    group_records,
    node_claims,
    pointer_claims,
    reverse_zones,
    server_claims,
    service_claims,
    zone_claims,
)
from meshnet.dns.records import text
from meshnet.dns.static import APEX, read_static
from meshnet.dns.table import COMMON, HOST, Table
from meshnet.model.addresses import gateway
from meshnet.model.names import DEFAULT_NETWORK
from meshnet.model.view import Node, Statements, View, addresses_of

_Key = TypeVar("_Key")
_Member = TypeVar("_Member")
_Value = TypeVar("_Value")

Pair = tuple[str, str]
"""Network and service, or network and attachment."""

InstanceSlot = tuple[str, str, str]
"""Network, service and attachment: the slot of an instance on its node."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A node as it was at the last update."""

    node: Node
    live: bool


@dataclass(slots=True)
class Moved:
    """What must make its claims again."""

    services: set[Pair] = field(default_factory=set)
    attachments: set[Pair] = field(default_factory=set)


class Zones:
    """Makes the tables of one node's contexts, doing again only what a change can touch.

    `problems` says which static records are not served, and why.
    """

    def __init__(self, me: str) -> None:
        self._me = me
        self._book = Book()
        self._seen: dict[str, Seen] = {}
        self._statements: Statements | None = None
        self._local: frozenset[str] = frozenset()
        self._services: dict[str, dict[str, dict[Pair, Member]]] = {}
        self._attachments: dict[Pair, dict[str, Place]] = {}
        self._origins: frozenset[bytes] = frozenset()
        self.problems: list[str] = []

    def update(
        self, view: View, reachable: Collection[str], networks: Iterable[str]
    ) -> Mapping[str, Table]:
        """Return the tables by context: the host's, and one for each of this node's `networks`.

        Layers in which nothing changed are the same objects as before.
        """
        local = frozenset(network for network in networks if network in view.networks)
        moved = self._relocate(local)
        for node_id in sorted(self._seen.keys() | view.nodes.keys()):
            node = view.nodes.get(node_id)
            live = node_id == self._me or node_id in reachable
            seen = self._seen.get(node_id)
            if seen is None or seen.node is not node or seen.live != live:
                self._move(node_id, None if node is None else Seen(node, live), moved)
        if self._statements is not view.statements or local != self._local:
            self._statements, self._local = view.statements, local
            self._claim_mesh(view)
        self._claim_moved(moved)
        return self._tables()

    @property
    def origins(self) -> tuple[str, ...]:
        """The zones that are ours, without trailing dot: the mesh's, and the reverse ones."""
        return tuple(sorted(text(origin).removesuffix(".") for origin in self._origins))

    def _tables(self) -> Mapping[str, Table]:
        contexts = [HOST, *sorted(self._local)]
        layers = self._book.settle(contexts)
        common = (COMMON, layers[COMMON])
        return {
            context: Table(((context, layers[context]), common), self._origins)
            for context in contexts
        }

    def _relocate(self, local: frozenset[str]) -> Moved:
        """Return what claims other layers once this node serves the networks `local`."""
        changed = local ^ self._local
        return Moved(
            {
                (network, service)
                for service, networks in self._services.items()
                for network in changed & networks.keys()
            },
            {pair for pair in self._attachments if pair[0] in changed} if changed else set(),
        )

    def _move(self, node_id: str, after: Seen | None, moved: Moved) -> None:
        """Take a node's attachments and instances out and put those of `after` in."""
        before = self._seen.pop(node_id, None)
        if after is not None:
            self._seen[node_id] = after
        self._move_places(node_id, _places(before), _places(after), moved)
        self._move_members(node_id, _members(before), _members(after), moved)
        if before is None or after is None or before.node.membership != after.node.membership:
            self._book.claim(("node", node_id), node_claims(after.node.membership) if after else ())

    def _move_places(
        self, node_id: str, before: dict[Pair, Place], after: dict[Pair, Place], moved: Moved
    ) -> None:
        for pair in before.keys() | after.keys():
            if before.get(pair) == after.get(pair):
                continue
            moved.attachments.add(pair)
            if pair in after:
                self._attachments.setdefault(pair, {})[node_id] = after[pair]
            else:
                _drop(self._attachments, pair, node_id)

    def _move_members(
        self,
        node_id: str,
        before: dict[InstanceSlot, Member],
        after: dict[InstanceSlot, Member],
        moved: Moved,
    ) -> None:
        for slot in before.keys() | after.keys():
            if before.get(slot) == after.get(slot):
                continue
            network, service, attachment = slot
            moved.services.add((network, service))
            networks = self._services.setdefault(service, {})
            if slot in after:
                networks.setdefault(network, {})[node_id, attachment] = after[slot]
            else:
                _drop(networks, network, (node_id, attachment))
            if not networks:
                del self._services[service]

    def _claim_mesh(self, view: View) -> None:
        """Claim what the mesh states: static records, networks, zones, the server's name."""
        static, self.problems = read_static(view.statements.static)
        mesh = view.statements.mesh
        prefixes = [prefix for network in view.networks.values() for prefix in network.prefixes]
        prefixes += (mesh.prefix4, mesh.prefix6) if mesh else ()
        reverse = {zone for prefix in prefixes for zone in reverse_zones(prefix)}
        self._origins = frozenset({APEX, *reverse})
        self._book.claim(
            ("zones",),
            [
                claim
                for origin in sorted(self._origins)
                for claim in zone_claims(origin, static.get(APEX, b"") if origin == APEX else b"")
            ],
        )
        self._book.claim(
            ("static",),
            [Claim(COMMON, STATIC_RANK, owner, static[owner]) for owner in static],
        )
        self._book.claim(
            ("networks",),
            [Claim(COMMON, EMPTY_RANK, below(network, APEX), b"") for network in view.networks],
        )
        self._book.claim(("server",), self._server_claims(view))

    def _server_claims(self, view: View) -> Iterator[Claim]:
        own = view.statements.memberships.get(self._me)
        yield from server_claims(HOST, (own.address4, own.address6) if own else ())
        for network in self._local:
            gateways = [gateway(prefix) for prefix in view.networks[network].prefixes]
            yield from server_claims(network, gateways)

    def _claim_moved(self, moved: Moved) -> None:
        for network, service in sorted(moved.services):
            subject = ("service", network, service)
            self._book.claim(subject, self._service_claims(network, service))
        for service in sorted({service for _, service in moved.services}):
            self._book.claim(("service", service), self._shared_claims(service))
        for pair in sorted(moved.attachments):
            self._book.claim(("attachment", *pair), self._attachment_claims(*pair))

    def _members(self, network: str, service: str) -> list[Member]:
        members = self._services.get(service, {}).get(network, {})
        return [members[key] for key in sorted(members)]

    def _service_claims(self, network: str, service: str) -> Iterator[Claim]:
        """Yield a service's names with its network, and those without it for that network."""
        members = self._members(network, service)
        if not members:
            return
        qualified = below(service, below(network, APEX))
        yield from service_claims(COMMON, NETWORK_RANK, qualified, members)
        yield from crowded_claims(members)
        if network in self._local and network != DEFAULT_NETWORK:
            yield from self._unqualified(network, service, members)

    def _shared_claims(self, service: str) -> Iterator[Claim]:
        """Yield a service's names without a network, for askers whose network does not have it."""
        networks = self._services.get(service, {})
        chosen = [DEFAULT_NETWORK] if DEFAULT_NETWORK in networks else sorted(networks)
        members = [member for network in chosen for member in self._members(network, service)]
        if members:
            yield from self._unqualified(COMMON, service, members)

    def _unqualified(self, layer: str, service: str, members: list[Member]) -> Iterator[Claim]:
        yield from service_claims(layer, SERVICE_RANK, below(service, APEX), members)
        by_node: dict[str, list[Member]] = {}
        for member in members:
            by_node.setdefault(member.node, []).append(member)
        for node, group in by_node.items():
            owner = below(service, below(node, APEX))
            yield Claim(layer, NODE_RANK, owner, group_records(group))

    def _attachment_claims(self, network: str, attachment: str) -> Iterator[Claim]:
        """Yield an attachment's names and PTR; of equal addresses that in `default` comes first."""
        found = self._attachments.get((network, attachment), {})
        places = [found[node_id] for node_id in sorted(found)]
        if not places:
            return
        owner, short = below(attachment, below(network, APEX)), below(attachment, APEX)
        default = network == DEFAULT_NETWORK
        rank = ATTACHMENT_RANK if default else EMPTY_RANK
        yield from attachment_claims(COMMON, ATTACHMENT_RANK, owner, places)
        yield from pointer_claims(COMMON, rank, owner, places)
        layer = COMMON if default else network
        if layer == COMMON or network in self._local:
            yield from attachment_claims(layer, ATTACHMENT_RANK, short, places)
        if not default and network in self._local:
            yield from pointer_claims(network, ATTACHMENT_RANK, owner, places)


def _places(seen: Seen | None) -> dict[Pair, Place]:
    """Return what a node has attached."""
    if seen is None:
        return {}
    return {
        pair: Place(seen.node.name, attachment.addresses, seen.live)
        for pair, attachment in seen.node.attachments.items()
    }


def _members(seen: Seen | None) -> dict[InstanceSlot, Member]:
    """Return a node's instances, by network, service and attachment."""
    if seen is None:
        return {}
    return {
        (i.network, i.service, i.attachment): Member(
            seen.node.name,
            i,
            addresses_of(seen.node, i),
            seen.live and i.healthy and i.weight > 0,
        )
        for i in seen.node.instances
    }


def _drop(groups: dict[_Key, dict[_Member, _Value]], key: _Key, member: _Member) -> None:
    """Take a member out of its group, and the group away when that was the last."""
    group = groups.get(key, {})
    group.pop(member, None)
    if not group:
        groups.pop(key, None)
