"""Pure. What the kernel lacks of what should be there, sorted by the check it belongs to.

A diagnosis does not compare states a second time: the operations that a reconciliation would do
say what is wrong in their own words. Here they are split, so that an operation which does several
things tells of those that concern the two ends in question, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from meshnet.model.addresses import Address
from meshnet.model.keys import PublicKey
from meshnet.model.records import Attachment
from meshnet.plan import operations as op
from meshnet.plan.evidence import Evidence
from meshnet.plan.state import HOST, Port

BY_KIND: dict[type, str] = {
    op.CreateTunnel: "tunnel",
    op.ConfigureTunnel: "tunnel",
    op.RemoveTunnel: "tunnel",
    op.SetTunnelLink: "tunnel",
    op.AddAddress: "tunnel",
    op.RemoveAddress: "tunnel",
    op.SetGuard: "firewall",
    op.RemoveGuard: "firewall",
    op.AddRoute: "route",
    op.RemoveRoute: "route",
    op.BuildSegment: "bridge",
    op.RemoveSegment: "bridge",
    op.SetFlood: "FDB",
    op.RemovePorts: "bridge",
}
"""The check that tells of an operation, for those that are told of whole."""


def drift(evidence: Evidence, check: str) -> list[str]:
    """Return in words what a reconciliation would mend, as far as it belongs to `check`."""
    return [text for where, text in _split(evidence) if where == check]


def _split(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for one in evidence.drift:
        if type(one) in BY_KIND:
            yield BY_KIND[type(one)], f"missing: {one}"
        elif isinstance(one, op.ChangePeers):
            yield from (("peer", text) for text in _peers(evidence, one))
        elif isinstance(one, op.SetFdb | op.RemoveFdb) and _stands(evidence, one.network):
            yield from (("FDB", text) for text in _fdb(evidence, one))
        elif isinstance(one, op.SetNeighbours | op.RemoveNeighbours) and _stands(
            evidence, one.network
        ):
            yield from (("neighbour", text) for text in _neighbours(evidence, one))
        elif isinstance(one, op.SetPort):
            yield from _port(evidence, one)


def _stands(evidence: Evidence, network: str) -> bool:
    """Without its VXLAN device a network has no entries, and the device is what is missing."""
    want, have = evidence.want.segments.get(network), evidence.have.segments.get(network)
    if want is None or have is None:
        return False
    return (want.vni, want.local) == (have.vni, have.local)


def _peers(evidence: Evidence, one: op.ChangePeers) -> Iterator[str]:
    peer = evidence.peer and evidence.peer.node
    record = peer.record if peer else None
    only: Collection[PublicKey] | None = record.wireguard if record else None
    actual = evidence.have.tunnel.peers if evidence.have.tunnel else {}
    names = {
        node.record.wireguard[0]: node.name for node in evidence.view.nodes.values() if node.record
    }
    for change in one.changes:
        if only is not None and change.key not in only:
            continue
        name = names.get(change.key, str(change.key))
        if change.remove:
            yield f"a strange peer {change.key} is on the device"
        elif change.key not in actual:
            yield f"peer {name} is not on the device"
        elif change.add or change.drop:
            yield f"allowed IPs of peer {name} differ: {change}"
        elif change.preshared_key is not None:
            yield f"the preshared key of peer {name} differs"


def remote(evidence: Evidence) -> list[Attachment] | None:
    """Return the attachments at the far end that count; None when all of the mesh do."""
    if evidence.peer is None or evidence.peer.node is None:
        return None
    if evidence.peer.attachment is not None:
        return [evidence.peer.attachment]
    return list(evidence.peer.node.attachments.values())


def _counts(network: str, far: list[Attachment] | None, mac: str, address: Address | None) -> bool:
    return far is None or any(
        item.network == network and (item.mac == mac or address in item.addresses) for item in far
    )


def _fdb(evidence: Evidence, one: op.SetFdb | op.RemoveFdb) -> Iterator[str]:
    have = evidence.have.segments.get(one.network)
    far = remote(evidence)
    for mac, vtep in sorted(one.entries.items()):
        if not _counts(one.network, far, mac, None):
            continue
        if isinstance(one, op.RemoveFdb):
            yield f"network {one.network} has a strange FDB entry: {mac} → {vtep}"
        elif have is not None and mac in have.fdb:
            yield f"FDB of {one.network} is forged: {mac} → {have.fdb[mac]}, should be {vtep}"
        else:
            yield f"FDB of {one.network} lacks {mac} → {vtep}"


def _neighbours(evidence: Evidence, one: op.SetNeighbours | op.RemoveNeighbours) -> Iterator[str]:
    have = evidence.have.segments.get(one.network)
    far = remote(evidence)
    for address, mac in sorted(one.entries.items(), key=str):
        if not _counts(one.network, far, mac, address):
            continue
        if isinstance(one, op.RemoveNeighbours):
            yield f"network {one.network} has a strange neighbour: {address} → {mac}"
        elif have is not None and address in have.neighbours:
            known = have.neighbours[address]
            yield f"neighbour of {one.network} is forged: {address} → {known}, should be {mac}"
        else:
            yield f"neighbours of {one.network} lack {address} → {mac}"


def _port(evidence: Evidence, one: op.SetPort) -> Iterator[tuple[str, str]]:
    if not _concerns(evidence, one):
        return
    segment = evidence.have.segments.get(one.network)
    have = segment.ports.get(one.name) if segment else None
    inside = "the host" if one.port.netns == HOST else one.port.netns
    what = f"{one.port.interface} in {inside}"
    if one.port.netns in evidence.gone:
        yield "container", f"namespace {inside} has ended"
    elif have is None or not have.interface:
        yield "bridge", f"port {one.name} of network {one.network}, for {what}, is not there"
    elif have.mtu != one.port.mtu:
        how = "is down or not wired to the bridge" if have.mtu == 0 else f"has mtu {have.mtu}"
        yield "bridge", f"port {one.name} of network {one.network}, for {what}, {how}"
    else:
        yield "container", f"{what} {_difference(one.port, have)}"


def _concerns(evidence: Evidence, one: op.SetPort) -> bool:
    here = evidence.here
    ends = [end.attachment for end in (here, evidence.peer if evidence.local else None) if end]
    chosen = [item for item in ends if item is not None]
    return not chosen or any(
        (item.network, item.mac) == (one.network, one.port.mac) for item in chosen
    )


def _difference(want: Port, have: Port) -> str:
    missing = sorted(str(address) for address in want.addresses - have.addresses)
    strange = sorted(str(address) for address in have.addresses - want.addresses)
    words = [f"lacks {' '.join(missing)}"] if missing else []
    words += [f"has {' '.join(strange)}, which is not its own"] if strange else []
    if want.mac != have.mac:
        words.append(f"has MAC {have.mac}, not {want.mac}")
    if want.interface != have.interface:
        words.append(f"is called {have.interface}")
    return ", ".join(words) or "differs in its routes or place"
