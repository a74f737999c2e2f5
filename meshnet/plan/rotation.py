"""Pure. How a node holds a peer whose WireGuard key changes.

The one who changes it says so twice (the dialogue is in `agent.rotation`): first a second key
beside the one in use, then the second alone. Between the two nothing is done here: the new key on
the device would shake hands before its addresses have moved to it, and what came by it would be
dropped. When the second word comes, the diff adds the new key and moves the addresses to it in one
step, and the new peer begins where the old one was.

The second word may be long in coming, when its writer cannot be reached by the old key any more
and no coordinator is there to carry it. So a peer that is lost is held by all the keys it has
announced, and the last of them that has shaken hands is in use: nobody shakes hands by a key before
it is the device's, whatever the clocks say.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from ipaddress import ip_network

from meshnet.model.addresses import Endpoint
from meshnet.model.keys import PublicKey
from meshnet.model.view import Node
from meshnet.plan.operations import ChangePeers, Operation
from meshnet.plan.state import PeerStatus, Tunnel

NEVER = PeerStatus()


def announced_keys(
    nodes: Iterable[Node], tunnel: Tunnel | None, reachable: Container[str]
) -> dict[str, tuple[PublicKey, ...]]:
    """Return the keys to hold those peers by that have announced another: first the one in use."""
    status = tunnel.status if tunnel else {}
    keys = {}
    for node in nodes:
        if node.record is None or len(node.record.wireguard) < 2:
            continue
        offered = node.record.wireguard
        shaken = [key for key in offered if status.get(key, NEVER).last_handshake]
        used = shaken[-1] if shaken else offered[0]
        others = () if node.id in reachable else tuple(key for key in offered if key != used)
        keys[node.id] = (used, *others)
    return keys


def successors(nodes: Iterable[Node], tunnel: Tunnel | None) -> dict[str, Endpoint]:
    """Return where those peers are that the device holds by a key they have not any more."""
    held = tunnel.peers if tunnel else {}
    changed = [n for n in nodes if n.record and held.keys().isdisjoint(n.record.wireguard)]
    if not changed:
        return {}
    places = {prefix: peer.endpoint for peer in held.values() for prefix in peer.allowed_ips}
    endpoints = {node.id: places.get(ip_network(node.membership.address4)) for node in changed}
    return {node: endpoint for node, endpoint in endpoints.items() if endpoint is not None}


def by_key(
    nodes: Mapping[str, Node],
    keys: Mapping[str, Sequence[PublicKey]],
    endpoints: Mapping[str, Endpoint],
) -> dict[PublicKey, Endpoint]:
    """Return endpoints of nodes as those of the keys that the nodes are held by."""
    known = {name: node.record for name, node in nodes.items() if name in endpoints and node.record}
    return {
        key: endpoints[name]
        for name, record in known.items()
        for key in keys.get(name, record.wireguard[:1])
    }


def new_keys(operations: Iterable[Operation]) -> set[PublicKey]:
    """Return the keys that were given addresses and an endpoint: tunnels that begin."""
    changes = [op.changes for op in operations if isinstance(op, ChangePeers)]
    return {one.key for some in changes for one in some if one.add and one.endpoint}
