"""From one host state to another: the order keeps its promises and the end is what was wanted."""

from __future__ import annotations

from dataclasses import fields, replace
from ipaddress import IPv4Address, ip_interface, ip_network

from hypothesis import given
from hypothesis import strategies as st

from meshnet.model.addresses import Endpoint, Prefix
from meshnet.model.keys import PresharedKey, PrivateKey, PublicKey
from meshnet.model.patched import Patched
from meshnet.plan.diff import plan, plan_peers, spared
from meshnet.plan.operations import (
    BuildSegment,
    ChangePeers,
    Operation,
    PeerChange,
    RemoveFdb,
    RemovePorts,
    RemoveSegment,
    SetFdb,
    SetGuard,
    SetNeighbours,
    SetPort,
)
from meshnet.plan.state import Guard, Host, Peer, Port, Segment, Tunnel

KEYS = [PublicKey(bytes([number]) * 32) for number in range(4)]
PREFIXES = [ip_network(f"10.213.0.{number}/32") for number in range(6)]
ENDPOINTS = [None, Endpoint.parse("192.0.2.1:1"), Endpoint.parse("[2001:db8::1]:2")]

Owners = dict[Prefix, PublicKey]


@st.composite
def peers(draw: st.DrawFn) -> dict[PublicKey, Peer]:
    """Peers with prefixes that have one owner each, as the kernel keeps them."""
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True))
    owners = {prefix: draw(st.sampled_from(keys)) for prefix in PREFIXES if keys}
    kept = draw(st.sets(st.sampled_from(PREFIXES)))
    return {
        key: Peer(
            allowed_ips=frozenset(p for p, owner in owners.items() if owner == key and p in kept),
            endpoint=draw(st.sampled_from(ENDPOINTS)),
            keepalive=draw(st.sampled_from([0, 25])),
            preshared_key=draw(st.sampled_from([None, PresharedKey(bytes([7]) * 32)])),
        )
        for key in keys
    }


def carry_out(have: dict[PublicKey, Peer], change: PeerChange) -> dict[PublicKey, Peer]:
    """Do what WireGuard does with one change: a prefix given to one peer leaves the other."""
    if change.remove:
        return {key: peer for key, peer in have.items() if key != change.key}
    after = {
        key: replace(peer, allowed_ips=peer.allowed_ips - change.add) for key, peer in have.items()
    }
    peer = after.get(change.key, Peer(frozenset()))
    preshared = peer.preshared_key
    if change.preshared_key is not None:
        preshared = change.preshared_key if any(change.preshared_key.raw) else None
    after[change.key] = Peer(
        (peer.allowed_ips | change.add) - change.drop,
        change.endpoint or peer.endpoint,
        peer.keepalive if change.keepalive is None else change.keepalive,
        preshared,
    )
    return after


def owners(have: dict[PublicKey, Peer]) -> Owners:
    return {prefix: key for key, peer in have.items() for prefix in peer.allowed_ips}


def all_changes(want: dict[PublicKey, Peer], have: dict[PublicKey, Peer]) -> list[PeerChange]:
    tunnel = Tunnel("meshnet0", PrivateKey(bytes(32)), 1, 1420, peers=have)
    operations = plan(Host(replace(tunnel, peers=want)), Host(tunnel))
    return [
        change
        for operation in operations
        if isinstance(operation, ChangePeers)
        for change in operation.changes
    ]


@given(peers(), peers())
def test_peers_end_as_wanted_whatever_they_were(
    want: dict[PublicKey, Peer], have: dict[PublicKey, Peer]
) -> None:
    now = have
    for change in all_changes(want, have):
        now = carry_out(now, change)
    expected = {
        key: replace(peer, endpoint=peer.endpoint or (have[key].endpoint if key in have else None))
        for key, peer in want.items()
    }
    assert now == expected


@given(peers(), peers())
def test_a_prefix_that_stays_or_moves_is_never_without_an_owner(
    want: dict[PublicKey, Peer], have: dict[PublicKey, Peer]
) -> None:
    kept = owners(want).keys() & owners(have).keys()
    now = have
    for change in all_changes(want, have):
        now = carry_out(now, change)
        assert kept <= owners(now).keys()


@given(peers())
def test_what_is_as_wanted_needs_nothing(want: dict[PublicKey, Peer]) -> None:
    assert list(plan_peers(want, want)) == []


def test_an_attribute_that_vanishes_from_the_wish_is_reset() -> None:
    have = {KEYS[0]: Peer(frozenset(), None, 25, PresharedKey(bytes([1]) * 32))}
    [change] = plan_peers({KEYS[0]: Peer(frozenset())}, have)
    assert change == PeerChange(KEYS[0], keepalive=0, preshared_key=PresharedKey(bytes(32)))


def test_an_endpoint_nobody_wants_to_set_is_left_to_the_kernel() -> None:
    have = {KEYS[0]: Peer(frozenset(), ENDPOINTS[1])}
    assert list(plan_peers({KEYS[0]: Peer(frozenset(), None)}, have)) == []


def segment(**changes: object) -> Segment:
    whole = Segment(
        vni=1000,
        mtu=1390,
        local=IPv4Address("10.213.0.1"),
        vtep_mac="02:00:00:00:00:01",
        gateway_mac="0e:00:00:00:00:01",
        gateways=frozenset({ip_interface("10.214.0.1/16")}),
        fdb={"0a:00:00:00:00:02": IPv4Address("10.213.0.2")},
        neighbours={IPv4Address("10.214.0.70"): "0a:00:00:00:00:02"},
        ports={"p0a": Port("/proc/7/ns/net", 7, "mesh0", "0a:00:00:00:00:03", 1390, frozenset())},
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def host(**segments: Segment) -> Host:
    tunnel = Tunnel("meshnet0", PrivateKey(bytes(32)), 1, 1420, peers={KEYS[0]: Peer(frozenset())})
    return Host(tunnel, Guard("meshnet0", frozenset(), frozenset({14789})), segments)


def kinds(operations: list[Operation]) -> list[str]:
    return [type(operation).__name__ for operation in operations]


def test_on_the_way_up_the_guard_and_encryption_come_before_the_neighbours_that_use_them() -> None:
    assert kinds(plan(host(default=segment()), Host())) == [
        "SetGuard",
        "CreateTunnel",
        "ConfigureTunnel",
        "ChangePeers",
        "SetTunnelLink",
        "BuildSegment",
        "SetFdb",
        "SetNeighbours",
        "SetPort",
    ]


def test_on_the_way_down_the_order_is_the_reverse_and_the_guard_goes_last() -> None:
    assert kinds(plan(Host(), host(default=segment()))) == [
        "RemovePorts",
        "RemoveSegment",
        "RemoveTunnel",
        "RemoveGuard",
    ]


def test_before_the_first_full_view_nothing_is_taken_away() -> None:
    assert plan(Host(), host(default=segment()), remove=False) == []
    operations = plan(host(a=segment()), host(b=segment()), remove=False)
    assert kinds(operations) == ["BuildSegment", "SetFdb", "SetNeighbours", "SetPort"]


def test_a_vxlan_device_that_must_be_replaced_gets_all_its_entries_again() -> None:
    operations = plan(host(default=segment()), host(default=segment(vni=0)))
    assert operations == [
        BuildSegment("default", segment()),
        SetFdb("default", segment().fdb),
        SetNeighbours("default", segment().neighbours),
    ]


def test_a_forged_entry_is_put_right_and_a_foreign_one_removed() -> None:
    forged = segment(
        fdb={
            "0a:00:00:00:00:02": IPv4Address("10.213.0.66"),
            "0a:00:00:00:00:77": IPv4Address("10.213.0.2"),
        }
    )
    assert plan(host(default=segment()), host(default=forged)) == [
        SetFdb("default", segment().fdb),
        RemoveFdb("default", {"0a:00:00:00:00:77": IPv4Address("10.213.0.2")}),
    ]


def test_every_field_of_the_state_is_known_to_the_planner() -> None:
    planned = {
        Host: {"tunnel", "guard", "segments"},
        Tunnel: {"name", "private_key", "listen_port", "mtu", "addresses", "routes", "peers"}
        | {"fwmark", "up", "status"},
        Peer: {"allowed_ips", "endpoint", "keepalive", "preshared_key"},
        Segment: {"vni", "mtu", "local", "vtep_mac", "gateway_mac", "gateways", "fdb"}
        | {"neighbours", "ports", "flood"},
        Guard: {"tunnel", "mesh_prefixes", "overlay_ports", "networks", "sealed_port"},
    }
    for kind, names in planned.items():
        assert {field.name for field in fields(kind)} == names, kind.__name__


def test_operations_say_what_they_do_and_never_a_secret() -> None:
    secret = PrivateKey(bytes(range(32)))
    want = replace(host(default=segment()))
    assert want.tunnel is not None
    want = replace(want, tunnel=replace(want.tunnel, private_key=secret))
    text = "\n".join(f"{operation} {operation!r}" for operation in plan(want, Host()))
    assert "set meshnet0 key, port 1, fwmark 0" in text
    assert str(bytes(range(32))) not in text
    assert secret.raw.hex() not in text


def test_removing_a_network_takes_its_ports_first() -> None:
    operations = plan(host(), host(default=segment()))
    assert operations == [RemovePorts("default", ("p0a",)), RemoveSegment("default")]
    assert SetGuard not in map(type, operations)
    assert SetPort not in map(type, operations)
    assert SetNeighbours not in map(type, operations)


def test_entries_once_found_equal_are_taken_for_equal_while_they_are_the_same_objects() -> None:
    vtep = IPv4Address("10.213.0.2")
    want = Host(segments={"n": Segment(1, 1370, vtep, "", "", frozenset(), fdb={"m": vtep})})
    same = replace(want.segments["n"], fdb=dict(want.segments["n"].fdb))
    have = Host(segments={"n": same})
    assert plan(want, have) == []

    assert spared(want, have, (want, have)).segments["n"].fdb is want.segments["n"].fdb
    assert spared(want, have, None) is have


def test_entries_read_anew_or_wanted_otherwise_are_compared_again() -> None:
    vtep = IPv4Address("10.213.0.2")
    want = Host(segments={"n": Segment(1, 1370, vtep, "", "", frozenset(), fdb={"m": vtep})})
    have = Host(segments={"n": replace(want.segments["n"], fdb={"m": vtep})})
    drifted = Host(segments={"n": replace(want.segments["n"], fdb={})})
    other = Host(segments={"n": replace(want.segments["n"], fdb={"k": vtep})})

    assert plan(want, spared(want, drifted, (want, have))) == [SetFdb("n", {"m": vtep})]
    assert SetFdb("n", {"k": vtep}) in plan(other, spared(other, have, (want, have)))


entries = st.dictionaries(
    st.sampled_from("abcdef"), st.sampled_from([IPv4Address(1), IPv4Address(2)])
)
changes = st.dictionaries(
    st.sampled_from("abcdef"), st.none() | st.sampled_from([IPv4Address(1), IPv4Address(2)])
)


@given(entries, st.lists(st.tuples(changes, changes), max_size=4))
def test_what_is_spared_changes_no_plan(
    first: dict[str, IPv4Address],
    steps: list[tuple[dict[str, IPv4Address | None], dict[str, IPv4Address | None]]],
) -> None:
    segment = Segment(1, 1370, IPv4Address(3), "", "", frozenset(), fdb=Patched(first, {}))
    want, have = segment, replace(segment, fdb=Patched(first, {}))
    equal = Host(segments={"n": want}), Host(segments={"n": have})
    for wanted, found in steps:
        want = replace(want, fdb=Patched(want.fdb, wanted))
        have = replace(have, fdb=Patched(have.fdb, found))
        goal, seen = Host(segments={"n": want}), Host(segments={"n": have})
        known = spared(goal, seen, equal)
        assert known == seen
        assert plan(goal, known) == plan(goal, seen)
        equal = known, seen
