"""Pure. From the actual to the desired state of a host, as ordered operations.

The order is the promise that nothing ever leaves in clear and no kept entry is without an owner:

    guard → tunnel and its peers → networks → entries → ports        what is added, bottom up
    ports → entries → networks → peers → addresses → tunnel → guard  what is taken away, top down

All additions come before all removals. A prefix that moves between peers moves in one step: the
gift to the new peer takes it from the old one, so it is not taken away beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from meshnet.model.addresses import Prefix
from meshnet.model.keys import PresharedKey, PublicKey
from meshnet.model.patched import Patched, differing, may_differ, may_lack
from meshnet.plan.operations import (
    AddAddress,
    AddRoute,
    BuildSegment,
    ChangePeers,
    ConfigureTunnel,
    CreateTunnel,
    Operation,
    PeerChange,
    RemoveAddress,
    RemoveFdb,
    RemoveGuard,
    RemoveNeighbours,
    RemovePorts,
    RemoveRoute,
    RemoveSegment,
    RemoveTunnel,
    SetFdb,
    SetFlood,
    SetGuard,
    SetNeighbours,
    SetPort,
    SetTunnelLink,
)
from meshnet.plan.state import Host, Peer, Segment, Tunnel

NO_PRESHARED_KEY = PresharedKey(bytes(32))

K = TypeVar("K")
V = TypeVar("V")


def plan(want: Host, have: Host, *, remove: bool = True) -> list[Operation]:
    """Return the operations from `have` to `want`, in order.

    With `remove` false only what adds or mends is returned: before the first full view nothing may
    be taken away.
    """
    operations = list(_additions(want, have))
    if remove:
        operations += _removals(want, have)
    return operations


def spared(want: Host, have: Host, equal: tuple[Host, Host] | None) -> Host:
    """Return `have` in such a form that few entries need to be compared with `want`.

    `equal` are two states with the same entries, to the first of which it is known how `want`
    differs, and to the second how `have` does: thousands of entries need not be looked at again.
    """
    if equal is None:
        return have
    segments = {
        name: _spared(want.segments.get(name), segment, *(one.segments.get(name) for one in equal))
        for name, segment in have.segments.items()
    }
    return replace(have, segments=segments)


def _spared(
    want: Segment | None, have: Segment, wanted: Segment | None, had: Segment | None
) -> Segment:
    if want is None or wanted is None or had is None:
        return have
    return replace(
        have,
        fdb=_as_patch(want.fdb, have.fdb, wanted.fdb, had.fdb),
        neighbours=_as_patch(want.neighbours, have.neighbours, wanted.neighbours, had.neighbours),
    )


def _as_patch(
    want: Mapping[K, V], have: Mapping[K, V], wanted: Mapping[K, V], had: Mapping[K, V]
) -> Mapping[K, V]:
    """Return `have` as a patch of `want`, given that `wanted` and `had` are equal."""
    mine, theirs = differing(want, wanted), differing(have, had)
    if mine is None or theirs is None:
        return have
    keys = mine | theirs
    return Patched(want, {key: have.get(key) for key in keys}) if keys else want


def _additions(want: Host, have: Host) -> Iterator[Operation]:
    if want.guard is not None and want.guard != have.guard:
        yield SetGuard(want.guard)
    if want.tunnel is not None:
        yield from _tunnel_additions(want.tunnel, have.tunnel)
    for name in sorted(want.segments):
        yield from _segment_additions(name, want.segments[name], have.segments.get(name))


def _removals(want: Host, have: Host) -> Iterator[Operation]:
    for name in sorted(have.segments):
        yield from _segment_removals(name, want.segments.get(name), have.segments[name])
    if have.tunnel is not None:
        yield from _tunnel_removals(want.tunnel, have.tunnel)
    if have.guard is not None and want.guard is None:
        yield RemoveGuard()


def _tunnel_additions(want: Tunnel, have: Tunnel | None) -> Iterator[Operation]:
    if have is None:
        yield CreateTunnel(want.name, want.mtu)
        have = Tunnel(want.name, None, 0, want.mtu, up=False)
    if (want.private_key, want.listen_port, want.fwmark) != (
        have.private_key,
        have.listen_port,
        have.fwmark,
    ):
        assert want.private_key is not None
        yield ConfigureTunnel(want.name, want.private_key, want.listen_port, want.fwmark)
    changes = tuple(plan_peers(want.peers, have.peers))
    if changes:
        yield ChangePeers(want.name, changes)
    for address in sorted(want.addresses - have.addresses, key=str):
        yield AddAddress(want.name, address)
    routes = [
        AddRoute(want.name, prefix, want.routes[prefix])
        for prefix in sorted(want.routes, key=str)
        if have.routes.get(prefix) != want.routes[prefix]
    ]
    # A wider device must find the narrow routes there; one that is down takes none.
    yield from routes if have.up else ()
    if want.mtu != have.mtu or not have.up:
        yield SetTunnelLink(want.name, want.mtu)
    yield from () if have.up else routes


def _tunnel_removals(want: Tunnel | None, have: Tunnel) -> Iterator[Operation]:
    if want is None or want.name != have.name:
        yield RemoveTunnel(have.name)
        return
    gone = tuple(PeerChange(key, remove=True) for key in sorted(have.peers.keys() - want.peers))
    if gone:
        yield ChangePeers(have.name, gone)
    for prefix in sorted(have.routes.keys() - want.routes.keys(), key=str):
        yield RemoveRoute(have.name, prefix)
    for address in sorted(have.addresses - want.addresses, key=str):
        yield RemoveAddress(have.name, address)


def plan_peers(
    want: Mapping[PublicKey, Peer], have: Mapping[PublicKey, Peer]
) -> Iterator[PeerChange]:
    """Yield changes to peers that are wanted, gifts of prefixes before anything is taken."""
    unmet = [key for key, peer in want.items() if not _is_met(peer, have.get(key))]
    if not unmet:
        return
    wanted = frozenset(prefix for peer in want.values() for prefix in peer.allowed_ips)
    changes = [
        change
        for key in unmet
        if (change := _peer_change(key, want[key], have.get(key), wanted)) is not None
    ]
    yield from sorted(changes, key=lambda change: (not change.add, change.key))


def _is_met(want: Peer, have: Peer | None) -> bool:
    """Say whether a peer is as wanted: mostly it is the same object, and seldom another."""
    if want is have or have is None:
        return want is have
    return want == (have if want.endpoint else replace(have, endpoint=None))


def _peer_change(
    key: PublicKey, want: Peer, have: Peer | None, wanted: frozenset[Prefix]
) -> PeerChange | None:
    known = have if have is not None else Peer(frozenset())
    change = PeerChange(
        key,
        add=want.allowed_ips - known.allowed_ips,
        drop=known.allowed_ips - wanted,
        endpoint=want.endpoint if want.endpoint != known.endpoint else None,
        keepalive=want.keepalive if want.keepalive != known.keepalive else None,
        preshared_key=(want.preshared_key or NO_PRESHARED_KEY)
        if want.preshared_key != known.preshared_key
        else None,
    )
    return None if have is not None and change == PeerChange(key) else change


def _skeleton(segment: Segment) -> tuple[object, ...]:
    return (
        segment.vni,
        segment.mtu,
        segment.local,
        segment.vtep_mac,
        segment.gateway_mac,
        segment.gateways,
    )


def _segment_additions(name: str, want: Segment, have: Segment | None) -> Iterator[Operation]:
    if have is None or _skeleton(want) != _skeleton(have):
        yield BuildSegment(name, want)
    if have is None or (want.vni, want.local) != (have.vni, have.local):
        have = Segment(
            want.vni,
            want.mtu,
            want.local,
            want.vtep_mac,
            want.gateway_mac,
            want.gateways,
            ports=have.ports if have else {},
        )
    if fdb := _differing(want.fdb, have.fdb):
        yield SetFdb(name, fdb)
    if want.flood != have.flood:
        yield SetFlood(name, want.flood)
    if neighbours := _differing(want.neighbours, have.neighbours):
        yield SetNeighbours(name, neighbours)
    for port in sorted(want.ports):
        if want.ports[port] != have.ports.get(port):
            yield SetPort(name, port, want.ports[port])


def _segment_removals(name: str, want: Segment | None, have: Segment) -> Iterator[Operation]:
    if gone := sorted(have.ports.keys() - (want.ports if want else ())):
        yield RemovePorts(name, tuple(gone))
    if want is None:
        yield RemoveSegment(name)
        return
    if neighbours := _without(have.neighbours, want.neighbours):
        yield RemoveNeighbours(name, neighbours)
    if fdb := _without(have.fdb, want.fdb):
        yield RemoveFdb(name, fdb)


def _differing(want: Mapping[K, V], have: Mapping[K, V]) -> dict[K, V]:
    """Return what is missing or other in `have`, sorted; there may be thousands that are not."""
    other = [key for key in may_differ(want, have) if have.get(key) != want[key]]
    return {key: want[key] for key in sorted(other, key=str)}


def _without(have: Mapping[K, V], want: Mapping[K, V]) -> dict[K, V]:
    gone = [key for key in may_lack(want, have) if key not in want]
    return {key: have[key] for key in sorted(gone, key=str)}
