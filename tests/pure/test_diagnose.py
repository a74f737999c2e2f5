"""Pure. The doctor's judgement: from seeded evidence, the first thing that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network
from typing import Any, get_args

import pytest

from meshnet.model.addresses import Endpoint
from meshnet.model.facts import Fact, FactSet
from meshnet.model.keys import PrivateKey
from meshnet.model.records import Candidate, NodeRecord
from meshnet.model.statements import Revocation
from meshnet.model.view import View, Viewer
from meshnet.plan import drift
from meshnet.plan.desired import Local, LocalPort, desired
from meshnet.plan.diagnose import CHECKS, diagnose
from meshnet.plan.diff import plan
from meshnet.plan.entries import Entries
from meshnet.plan.evidence import Asked, Evidence, Subject, Tried, Way, certificate_of, resolve
from meshnet.plan.firewall import Drop, Packet, Rule
from meshnet.plan.operations import (
    ChangePeers,
    Operation,
    RemoveFdb,
    RemoveNeighbours,
    SetFdb,
    SetNeighbours,
    SetPort,
)
from meshnet.plan.state import Host, Peer, PeerStatus, Port, Segment, Tunnel
from meshnet.wire.fact import sign
from meshnet.wire.local import Diagnosis, Finding
from tests.pure import facts as f

OWN, OTHER = (f.identity(index).node_id for index in (0, 1))
ENDPOINT = Endpoint.parse("192.0.2.2:51820")
NAMESPACE = "/proc/17/ns/net"


def facts() -> list[Fact]:
    """Nodes n0 and n1 speak, n2 never did; c1 is on both, with service web on n1."""
    return [
        *f.base(),
        sign(f.NODES[0], NodeRecord((f.wireguard(100),)), 1),
        sign(f.NODES[0], f.attachment(0), 2),
        sign(f.NODES[0], f.attachment(0, "c9", 9, "appnet"), 3),
        sign(f.NODES[1], NodeRecord((f.wireguard(101),), (Candidate(ENDPOINT),)), 1),
        sign(f.NODES[1], f.attachment(1, "c2"), 2),
        sign(f.NODES[1], f.instance("c2"), 3),
    ]


def view(now: float = f.NOW) -> View:
    return Viewer(f.ROOT.public).view(FactSet(facts()), facts(), now)


def wanted(of: View) -> Host:
    ports = tuple(
        LocalPort(item, NAMESPACE, 1, "mesh0") for item in of.nodes[OWN].attachments.values()
    )
    key = PrivateKey(bytes([8]) * 32)
    local = Local(OWN, "meshnet0", key, 51820, 1420, 1420, ports)
    return desired(of, local, Entries())


WANT = wanted(view())
assert WANT.tunnel is not None
TUNNEL: Tunnel = WANT.tunnel
KEY = f.wireguard(101)
SEGMENT: Segment = WANT.segments["default"]
PASSES = Tried(answered=True, size=1420, passes=True, largest=1420, reached=True)
((PORT_NAME, PORT),) = SEGMENT.ports.items()
MAC, VTEP = next(iter(SEGMENT.fdb.items()))
NEIGHBOUR = next(iter(SEGMENT.neighbours))


def well(*words: str, have: Host = WANT) -> Evidence:
    """Return the evidence of a mesh in which all is well but what `have` lacks."""
    seen = view()
    here, peer = (resolve(seen, word, OWN) for word in words) if words else (None, None)
    return Evidence(
        now=f.NOW,
        own=OWN,
        view=seen,
        want=WANT,
        have=have,
        certificate=certificate_of(facts(), OWN),
        drift=tuple(plan(WANT, have)),
        offset=0,
        here=here,
        peer=peer,
        peer_certificate=certificate_of(facts(), words[1] if words else ""),
        tried=PASSES if words else Tried(),
        asked=(Asked("10.213.0.1", "n0.mesh", frozenset({"x"}), frozenset({"x"}), "NOERROR"),),
        underlay=(("eth0", ip_interface("192.0.2.1/24")),),
        endpoint=(ENDPOINT, "eth0"),
        ways=(Way(VTEP, "meshnet0", "meshnet0"),),
    )


def first(found: Diagnosis) -> Finding | None:
    marked = [one for one in found.findings if one.first]
    assert len(marked) <= 1
    wrong = [one for one in found.findings if one.state == "wrong"]
    assert wrong[:1] == marked
    assert all(one.do for one in wrong)
    return marked[0] if marked else None


def tunnel(**changes: Any) -> Host:
    return replace(WANT, tunnel=replace(TUNNEL, **changes))


def segment(**changes: Any) -> Host:
    return replace(WANT, segments={**WANT.segments, "default": replace(SEGMENT, **changes)})


def port(**changes: Any) -> Host:
    return segment(ports={PORT_NAME: replace(PORT, **changes)})


def without(mapping: Mapping[Any, Any], key: object) -> dict[Any, Any]:
    return {one: value for one, value in mapping.items() if one != key}


STRANGE = f.wireguard(77)
DRIFTS: dict[str, tuple[Host, str, str]] = {
    "no tunnel": (replace(WANT, tunnel=None), "tunnel", "create WireGuard device meshnet0"),
    "tunnel down": (tunnel(up=False), "tunnel", "set meshnet0 up"),
    "wrong MTU": (tunnel(mtu=1500), "tunnel", "mtu 1420"),
    "no address": (tunnel(addresses=frozenset()), "tunnel", "add address 10.213.0.1/32"),
    "no peer": (tunnel(peers={}), "peer", "n1 is not on the device"),
    "no allowed IP": (
        tunnel(peers={KEY: Peer(frozenset())}),
        "peer",
        "allowed IPs of peer n1 differ",
    ),
    "no route": (tunnel(routes={}), "route", "add route 10.213.0.0/16"),
    "no guard": (replace(WANT, guard=None), "firewall", "inet meshnet is not as we left it"),
    "no network": (
        replace(WANT, segments=without(WANT.segments, "default")),
        "bridge",
        "build network default",
    ),
    "no VXLAN device": (segment(vni=0, mtu=0, fdb={}), "bridge", "build network default"),
    "other MTU": (segment(mtu=0), "bridge", "build network default"),
    "no FDB entry": (segment(fdb={}), "FDB", f"FDB of default lacks {MAC} → {VTEP}"),
    "forged FDB entry": (
        segment(fdb={MAC: IPv4Address("192.0.2.9")}),
        "FDB",
        f"forged: {MAC} → 192.0.2.9, should be {VTEP}",
    ),
    "no neighbour": (segment(neighbours={}), "neighbour", f"lack {NEIGHBOUR} → {MAC}"),
    "forged neighbour": (
        segment(neighbours={NEIGHBOUR: "02:00:00:00:00:01"}),
        "neighbour",
        f"forged: {NEIGHBOUR} → 02:00:00:00:00:01",
    ),
    "no port": (segment(ports={}), "bridge", "is not there"),
    "port down": (port(mtu=0), "bridge", "is down or not wired"),
    "port of another MTU": (port(mtu=9000), "bridge", "has mtu 9000"),
    "no address inside": (port(addresses=frozenset()), "container", "lacks 10.214.0.5/16"),
    "strange address": (
        port(addresses=PORT.addresses | {ip_interface("10.214.9.9/16")}),
        "container",
        "has 10.214.9.9/16, which is not its own",
    ),
    "other MAC": (port(mac="02:00:00:00:00:07"), "container", "has MAC 02:00:00:00:00:07"),
    "other name": (port(interface="eth7"), "container", "is called eth7"),
}


@pytest.mark.parametrize("what", DRIFTS)
def test_what_the_kernel_lacks_is_named(what: str) -> None:
    have, check, text = DRIFTS[what]
    found = first(diagnose(well("c1", "c2", have=have)))
    assert found is not None
    assert (found.check, text in found.text) == (check, True), found


DRIFTS_ELSEWHERE: dict[str, Host] = {
    "a strange peer": tunnel(peers={**TUNNEL.peers, STRANGE: Peer(frozenset())}),
    "a strange FDB entry": segment(fdb={**SEGMENT.fdb, "02:00:00:00:00:09": VTEP}),
    "a strange neighbour": segment(
        neighbours={**SEGMENT.neighbours, ip_address("10.214.9.9"): "02:00:00:00:00:09"}
    ),
}


@pytest.mark.parametrize("what", DRIFTS_ELSEWHERE)
def test_what_does_not_concern_the_two_is_told_only_of_the_node(what: str) -> None:
    have = DRIFTS_ELSEWHERE[what]
    assert first(diagnose(well("c1", "c2", have=have))) is None
    found = first(diagnose(well(have=have)))
    assert found is not None
    assert "strange" in found.text


def test_where_the_kernel_refuses_a_repair_the_reason_is_what_is_to_be_mended() -> None:
    refused = ("add route: there is one that is not ours (Take it away.)",)
    found = first(diagnose(replace(well(have=tunnel(routes={})), refused=refused)))
    assert found is not None
    assert found.do == f"The kernel refuses what the agent tries: {refused[0]}"


def test_a_membership_that_a_wrong_clock_has_ended_needs_no_new_token() -> None:
    found = first(diagnose(replace(well(), now=f.LATER, offset=-9000)))
    assert found is not None
    assert (found.check, found.do) == ("identity", "Mend the clock first: see the next line.")


def test_an_address_of_the_mesh_beside_a_good_one_is_not_wrong() -> None:
    both = (("eth0", ip_interface("10.213.9.7/24")), ("eth1", ip_interface("192.0.2.1/24")))
    found = diagnose(replace(well(), underlay=both))
    assert first(found) is None
    assert "192.0.2.1 on eth1" in [one.text for one in found.findings]


def test_all_is_well_says_every_check_for_a_pair() -> None:
    found = diagnose(well("c1", "web"))
    assert [one.check for one in found.findings] == [name for name, _ in CHECKS]
    assert {one.state for one in found.findings} == {"ok"}
    assert found.subject == "c1 on n0 → c2 on n1"


def drop(*, sure: bool = True, tested: bool = True, table: str = "foreign") -> Drop:
    packet = Packet("packets", "input", 4, tested=tested)
    return Drop(packet, Rule("ip", table, "block", 7, "-A block -j DROP", ({},)), sure)


CHANGES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no certificate": (
        {"certificate": certificate_of([], OWN)},
        "identity",
        "this node has no membership certificate",
    ),
    "expired": ({"now": f.LATER}, "identity", "the membership of this node expired on 2027-01-15"),
    "revoked": (
        {
            "certificate": certificate_of(
                [*facts(), sign(f.ISSUER, Revocation(f.identity(0)), 99)], OWN
            )
        },
        "identity",
        "is revoked",
    ),
    "another key": ({"foreign_key": True}, "identity", "another private key"),
    "clock behind": ({"offset": 61}, "clock", "61 s behind the coordinator's"),
    "clock ahead": ({"offset": -61}, "clock", "61 s ahead of the coordinator's"),
    "no address": ({"underlay": ()}, "underlay", "this host has no address on any link"),
    "an address of the mesh": (
        {"underlay": (("eth0", ip_interface("10.213.9.7/16")),)},
        "underlay",
        "10.213.9.7/16 on eth0 lies in 10.213.0.0/16, which is the mesh's own",
    ),
    "no route to the peer": (
        {"endpoint": (ENDPOINT, "")},
        "underlay",
        "there is no route to 192.0.2.2:51820, where the peer is",
    ),
    "a full table of neighbours": (
        {"turned_away": 3},
        "underlay",
        "the kernel's table of neighbours is full",
    ),
    "a drop": (
        {"drops": (drop(),), "tried": Tried(answered=False)},
        "firewall",
        "packets are dropped by table ip foreign, chain block, handle 7: -A block -j DROP",
    ),
    "a full table of connections": (
        {"tracked": (4096, 4096)},
        "firewall",
        "the kernel tracks 4096 connections and may track no more",
    ),
    "a drop inside": ({"drops": (drop(tested=False),)}, "firewall", "chain block"),
    "a vague drop": (
        {"drops": (drop(sure=False),), "tried": Tried(answered=False)},
        "firewall",
        "may be dropped",
    ),
    "a port taken": ({"port_taken": True}, "port", "51820 is held by another program"),
    "nobody listens": ({"port_open": False}, "port", "nobody listens on UDP port 51820"),
    "no root": ({"unread": ("not permitted", "")}, "tunnel", "cannot be read: not permitted"),
    "silence": (
        {"tried": Tried(answered=False)},
        "handshake",
        "n1 does not answer and has no endpoint; there was no handshake yet",
    ),
    "large packets lost": (
        {"tried": Tried(answered=True, size=1420, passes=False, largest=1280)},
        "MTU",
        "packets of 1420 bytes do not pass the tunnel, of 1280 bytes do",
    ),
    "a rule that leads elsewhere": (
        {"ways": (Way(ip_address("10.214.0.1"), "eth0", "mesh-default"),)},
        "route",
        "packets to 10.214.0.1 leave by eth0 and not by mesh-default",
    ),
    "a network the host is not on": (
        {"absent": ("this host is not on all its networks: no", "")},
        "container",
        "not on all its networks",
    ),
    "a disk that is full": ({"unwritten": "keys.json cannot be written"}, "agent", "keys.json"),
    "no echo": (
        {"tried": replace(PASSES, reached=False)},
        "reach",
        "c2 does not answer an echo from c1 at 10.214.0.69",
    ),
    "no DNS": (
        {"asked": (Asked("10.213.0.1", "n0.mesh", error="no answer"),)},
        "DNS",
        "10.213.0.1: no answer",
    ),
    "a wrong answer": (
        {"asked": (Asked("10.213.0.1", "n0.mesh", frozenset({"a"}), frozenset(), "NXDOMAIN"),)},
        "DNS",
        "n0.mesh is NXDOMAIN at 10.213.0.1, should be a",
    ),
    "no agent": ({"agent": False}, "agent", "the agent does not answer"),
    "peer's agent": (
        {"tried": Tried(answered=True, size=9, passes=True, agent_down=True)},
        "agent",
        "the agent of n1 is down",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_seen_or_tried_is_named(what: str) -> None:
    changes, check, text = CHANGES[what]
    found = first(diagnose(replace(well("c1", "c2"), **changes)))
    assert found is not None
    assert (found.check, text in found.text) == (check, True), found


NOTES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no coordinator": (
        {"offset": None, "no_coordinator": "cut off"},
        "clock",
        "no coordinator to compare with: cut off",
    ),
    "other facts": ({"digest": "a" * 32, "peer_digest": "b" * 32}, "map", "n1 has other facts"),
    "a drop, disproved": ({"drops": (drop(),)}, "firewall", "yet packets pass"),
    "a vague drop inside": ({"drops": (drop(sure=False, tested=False),)}, "firewall", "yet"),
}


@pytest.mark.parametrize("what", NOTES)
def test_what_need_not_be_wrong_is_a_note(what: str) -> None:
    changes, check, text = NOTES[what]
    found = diagnose(replace(well("c1", "c2"), **changes))
    assert first(found) is None
    (note,) = [one for one in found.findings if one.state == "note"]
    assert (note.check, text in note.text) == (check, True), note


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("c1", "nobody"), "no node, attachment or service nobody"),
        (("n0", "n2"), "n2 is a member but has never said how to reach it"),
        (("c9", "c2"), "c9 is on network appnet and c2 on default"),
    ],
)
def test_who_cannot_be_reached_by_the_map_is_named(words: tuple[str, str], text: str) -> None:
    found = first(diagnose(well(*words)))
    assert found is not None
    assert (found.check, text in found.text) == ("map", True), found


def test_a_peer_whose_certificate_has_expired_is_named() -> None:
    gone = replace(well("n0", "n1"), peer=Subject("n1"), now=f.LATER)
    fresh = certificate_of([sign(f.ISSUER, f.membership(0, f.LATER + 9), 90)], OWN)
    found = first(diagnose(replace(gone, certificate=fresh)))
    assert found is not None
    assert "the membership of n1 expired on" in found.text


def test_an_endpoint_that_is_none_of_the_peers_is_named_with_the_age_of_the_handshake() -> None:
    peers = {KEY: replace(TUNNEL.peers[KEY], endpoint=Endpoint.parse("192.0.2.99:1"))}
    have = tunnel(peers=peers, status={KEY: PeerStatus(last_handshake=f.NOW - 77)})
    found = first(diagnose(replace(well("n0", "n1", have=have), tried=Tried(answered=False))))
    assert found is not None
    assert found.text == (
        "n1 does not answer at endpoint 192.0.2.99:1, which is none of its own (192.0.2.2:51820);"
        " the last handshake was 77 s ago"
    )


def test_legacy_rules_are_deleted_by_their_own_program() -> None:
    evidence = replace(
        well("n0", "n1"),
        drops=(drop(table="filter (legacy iptables)"),),
        tried=Tried(answered=False),
    )
    found = first(diagnose(evidence))
    assert found is not None
    assert found.do == "Delete it: iptables-legacy -t filter -D block -j DROP"


def test_a_node_without_names_tells_of_itself_and_of_peers_not_reached() -> None:
    found = diagnose(replace(well(), unreachable=("n1",)))
    assert found.subject == "n0"
    wrong = first(found)
    assert wrong is not None
    assert (wrong.check, wrong.do) == ("handshake", "See why: meshnet doctor n0 n1")


@pytest.mark.parametrize(("unreachable", "state"), [(("n1",), "wrong"), ((), "note")])
def test_a_rule_is_not_to_blame_while_every_peer_is_reached(
    unreachable: tuple[str, ...], state: str
) -> None:
    found = diagnose(replace(well(), drops=(drop(),), unreachable=unreachable))
    assert [one.state for one in found.findings if one.check == "firewall"] == [state]


def test_a_third_node_tells_only_what_it_can() -> None:
    found = diagnose(replace(well("n1", "n2"), unreachable=("n2",)))
    assert [one.check for one in found.findings] == [
        "vantage",
        "identity",
        "clock",
        "map",
        "handshake",
    ]
    assert found.findings[0].do == "Run the same on n1 or n2."


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("n1", ("n1", None)),
        ("N1.mesh.", ("n1", None)),
        (OTHER, ("n1", None)),
        ("c1", ("n0", "c1")),
        ("c2.n1", ("n1", "c2")),
        ("c2.default.mesh", ("n1", "c2")),
        ("c2.n0", (None, None)),
        ("web", ("n1", "c2")),
        ("web.appnet", (None, None)),
        ("", (None, None)),
    ],
)
def test_a_word_is_resolved(word: str, expected: tuple[str | None, str | None]) -> None:
    found = resolve(view(), word, OWN)
    name = found.node.name if found.node else None
    assert (name, found.attachment.name if found.attachment else None) == expected


def test_every_kind_of_operation_belongs_to_a_check() -> None:
    split = {ChangePeers, SetFdb, RemoveFdb, SetNeighbours, RemoveNeighbours, SetPort}
    assert set(get_args(Operation)) == drift.BY_KIND.keys() | split
    assert set(drift.BY_KIND.values()) <= {name for name, _ in CHECKS}


def test_every_field_of_a_port_is_told_of() -> None:
    known = {
        "netns",
        "inode",
        "interface",
        "mac",
        "mtu",
        "addresses",
        "routes",
        "gateways",
        "sources",
    }
    assert {one.name for one in fields(Port)} == known
    moved = port(routes=frozenset({ip_network("10.99.0.0/16")}))
    found = first(diagnose(well("c1", "c2", have=moved)))
    assert found is not None
    assert "differs in its routes or place" in found.text
