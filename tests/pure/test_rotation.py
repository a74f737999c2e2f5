"""A peer's WireGuard key changes: by which keys it is held, and where the new one begins."""

from __future__ import annotations

from ipaddress import ip_network

from meshnet.model.addresses import Endpoint
from meshnet.model.facts import FactSet
from meshnet.model.keys import PrivateKey, PublicKey
from meshnet.model.records import NodeRecord
from meshnet.model.view import Node, Viewer
from meshnet.plan.desired import Local, desired
from meshnet.plan.entries import Entries
from meshnet.plan.rotation import announced_keys, successors
from meshnet.plan.state import Peer, PeerStatus, Tunnel
from meshnet.wire.fact import sign
from tests.pure import facts as f

OLD, NEW = f.wireguard(101), f.wireguard(201)
HERE = Endpoint.parse("192.0.2.7:51820")
MEMBER = f.membership(1)
ADDRESSES = frozenset({ip_network(MEMBER.address4), ip_network(MEMBER.address6)})


def node(*keys: PublicKey) -> Node:
    return Node(MEMBER, NodeRecord(keys))


def tunnel(**shaken: float) -> Tunnel:
    """Return a device that holds the node by its old key, and the handshakes it has seen."""
    status = {{"old": OLD, "new": NEW}[key]: PeerStatus(at) for key, at in shaken.items()}
    return Tunnel("meshnet0", None, 1, 1420, peers={OLD: Peer(ADDRESSES, HERE)}, status=status)


def test_a_peer_that_has_named_one_key_is_held_by_it() -> None:
    assert announced_keys([node(NEW)], tunnel(old=5), ()) == {}


def test_a_key_that_is_only_announced_is_not_on_the_device_while_its_node_is_reached() -> None:
    announcing = node(OLD, NEW)
    assert announced_keys([announcing], tunnel(old=5), {MEMBER.node}) == {MEMBER.node: (OLD,)}
    assert announced_keys([announcing], None, {MEMBER.node}) == {MEMBER.node: (OLD,)}


def test_a_lost_peer_is_held_by_all_its_keys_and_has_the_last_that_shook_hands() -> None:
    announcing = node(OLD, NEW)
    assert announced_keys([announcing], tunnel(old=5), ()) == {MEMBER.node: (OLD, NEW)}
    assert announced_keys([announcing], tunnel(old=5, new=6), ()) == {MEMBER.node: (NEW, OLD)}
    assert announced_keys([announcing], tunnel(old=9, new=6), ()) == {MEMBER.node: (NEW, OLD)}
    found = announced_keys([announcing], tunnel(old=5, new=6), {MEMBER.node})
    assert found == {MEMBER.node: (NEW,)}


def test_a_key_that_follows_another_begins_where_that_one_was() -> None:
    assert successors([node(NEW)], tunnel()) == {MEMBER.node: HERE}
    assert successors([node(NEW, f.wireguard(202))], tunnel()) == {MEMBER.node: HERE}
    assert successors([node(OLD, NEW)], tunnel()) == {}
    assert successors([node(NEW)], None) == {}


def test_a_key_held_for_the_case_has_no_addresses() -> None:
    facts = [*f.base(), sign(f.NODES[1], NodeRecord((OLD, NEW)), 1)]
    view = Viewer(f.ROOT.public).view(FactSet(facts), facts, f.NOW)
    me, key = f.membership(0).node, PrivateKey(bytes(32))
    local = Local(me, "meshnet0", key, 1, 1420, 1420, keys={MEMBER.node: (OLD, NEW)})
    wanted = desired(view, local, Entries()).tunnel
    assert wanted is not None
    assert wanted.peers[OLD].allowed_ips == ADDRESSES
    assert wanted.peers[NEW] == Peer(frozenset())
