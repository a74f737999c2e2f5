"""Pure. What a diagnosis is made from: all that was read and tried, as values, and who is meant.

The shell gathers one Evidence and nothing in it is a judgement; `diagnose` judges. `None` always
means that it was not or could not be found out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from meshnet.model.addresses import Address, Endpoint, Interface
from meshnet.model.facts import Fact
from meshnet.model.names import DEFAULT_NETWORK, ZONE
from meshnet.model.records import Attachment
from meshnet.model.statements import Membership, Revocation
from meshnet.model.view import Node, View
from meshnet.plan.firewall import Drop
from meshnet.plan.operations import Operation
from meshnet.plan.state import Host


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is meant by a word: a node, or an attachment on one. `node` None: nobody known."""

    word: str
    node: Node | None = None
    attachment: Attachment | None = None

    @property
    def name(self) -> str:
        if self.node is None:
            return self.word
        return f"{self.attachment.name} on {self.node.name}" if self.attachment else self.node.name


@dataclass(frozen=True, slots=True)
class Certificate:
    """The newest certificate of a node there is, whether it is still good or not."""

    membership: Membership | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What came of trying to reach the peer. `answered`: it answers inside the tunnel.

    `size` is the largest packet that should pass, `passes` whether it did, `largest` what did.
    `agent_down`: its host says that nobody listens on the agent's port. `reached`: the attachment
    in question answers an echo from ours, over the network.
    """

    answered: bool | None = None
    size: int = 0
    passes: bool | None = None
    largest: int = 0
    agent_down: bool = False
    reached: bool | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to this node's DNS server. `error`: there was no answer."""

    server: str
    name: str
    expected: frozenset[str] = frozenset()
    answers: frozenset[str] = frozenset()
    rcode: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """By which link the kernel sends to an address, '' for none, and by which it should."""

    address: Address
    link: str
    wanted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known for one diagnosis.

    `offset` is the coordinator's clock less ours, in seconds. `drift` is what a reconciliation
    would do now, `unread` why the kernel cannot be read, with what to do. `agent` is whether ours
    runs; it alone knows what the kernel has `refused` it, why this host is `absent` from a network
    it should be on, with what to do, and what is `unwritten`. `peer` and `here` are None without
    arguments. `underlay` are the host's links and addresses that are not ours, `endpoint` is the
    peer's, with the link it is sent to by, '' for none. `turned_away` is how many neighbours the
    kernel had no room for meanwhile, `tracked` how many connections it tracks, and how many it may.
    """

    now: int
    own: str
    view: View
    want: Host
    have: Host
    certificate: Certificate = Certificate()
    drift: tuple[Operation, ...] = ()
    unread: tuple[str, str] | None = None
    foreign_key: bool = False
    offset: int | None = None
    no_coordinator: str = ""
    agent: bool = True
    here: Subject | None = None
    peer: Subject | None = None
    peer_certificate: Certificate = Certificate()
    digest: str = ""
    peer_digest: str = ""
    drops: tuple[Drop, ...] = ()
    port_taken: bool = False
    port_open: bool = True
    tried: Tried = Tried()
    unreachable: tuple[str, ...] = ()
    asked: tuple[Asked, ...] = ()
    gone: tuple[str, ...] = ()
    ways: tuple[Way, ...] = ()
    underlay: tuple[tuple[str, Interface], ...] | None = None
    endpoint: tuple[Endpoint, str] | None = None
    turned_away: int = 0
    tracked: tuple[int, int] | None = None
    refused: tuple[str, ...] = ()
    absent: tuple[str, str] | None = None
    unwritten: str = ""

    @property
    def me(self) -> Node | None:
        return self.view.nodes.get(self.own)

    @property
    def onlooker(self) -> bool:
        """Whether this node is neither of the two ends."""
        ends = (self.here, self.peer)
        return any(ends) and not any(end and end.node and end.node.id == self.own for end in ends)

    @property
    def local(self) -> bool:
        """Whether both ends are on this node, so that no tunnel is between them."""
        return bool(self.peer and self.peer.node and self.peer.node.id == self.own)


def ends_inside(evidence: Evidence) -> tuple[Attachment, Attachment] | None:
    """Return (ours, theirs) on one network; ours is the host's own where no other is named."""
    here, peer = evidence.here, evidence.peer
    if here is None or here.node is None or peer is None or peer.attachment is None:
        return None
    theirs = peer.attachment
    if here.attachment is not None:
        same = here.attachment.network == theirs.network
        return (here.attachment, theirs) if same else None
    for item in here.node.attachments.values():
        if item.host and item.network == theirs.network:
            return item, theirs
    return None


def resolve(view: View, word: str, own: str = "") -> Subject:
    """Find out who is meant by a node's name or id, an attachment's name or a service's name.

    Of several instances or attachments of one name, one on node `own` comes first. `c1.n2` and
    `web.appnet` say which node or network, `.mesh` at the end changes nothing.
    """
    plain = word.lower().removesuffix(".").removesuffix(f".{ZONE}")
    nodes = sorted(view.nodes.values(), key=lambda node: (node.id != own, node.name))
    for node in nodes:
        if plain in (node.name, node.id):
            return Subject(word, node)
    first, _, second = plain.partition(".")
    for node in nodes:
        for item in node.attachments.values():
            where = (node.name, item.network) if second else (second,)
            if item.name == first and second in where:
                return Subject(word, node, item)
    network = second or DEFAULT_NETWORK
    for node in nodes:
        for instance in node.instances:
            if (instance.service, instance.network) == (first, network):
                return Subject(word, node, node.attachments[network, instance.attachment])
    return Subject(word)


def certificate_of(facts: Iterable[Fact], node: str) -> Certificate:
    """Return the newest certificate of a node, by id or name, expired or not."""
    newest: Membership | None = None
    revoked = set()
    for fact in facts:
        body = fact.body
        if isinstance(body, Revocation):
            revoked.add(body.identity)
        elif isinstance(body, Membership) and node in (body.node, body.name):
            newest = max(newest or body, body, key=lambda one: one.not_after)
    return Certificate(newest, newest is not None and newest.identity in revoked)
