"""Pure. The zone: which names a mesh has, for whom, and what a change touches."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.dns.naming import reverse_zones
from meshnet.dns.records import text
from meshnet.dns.table import COMMON, HOST, Table, differences
from meshnet.dns.zone import Zones
from meshnet.model.records import ServicePort
from meshnet.model.statements import StaticRecord
from meshnet.model.view import Node, View
from tests.pure.dns_world import (
    attachment,
    instance,
    network,
    node,
    node_id,
    owner_text,
    view,
    zone_text,
)

ALL = [node_id(number) for number in range(1, 6)]
LOCAL = ("appnet", "backend", "default")


def tables(world: View, *, reachable: list[str] = ALL, me: int = 1) -> Mapping[str, Table]:
    return Zones(node_id(me)).update(world, reachable, LOCAL)


def host(world: View, *, reachable: list[str] = ALL) -> Table:
    return tables(world, reachable=reachable)[HOST]


def web_on(number: int, name: str = "c1", net: str = "default", **more: object) -> Node:
    address = {"default": "10.214", "appnet": "10.1", "backend": "10.1"}[net]
    return node(
        number,
        attachment(net, name, f"{address}.0.{number + 1}", f"fd00:0:0:1::{number:x}"),
        instance(net, "web", name, **more),  # type: ignore[arg-type]
    )


def test_the_names_of_one_node_with_one_service() -> None:
    world = view(web_on(1, version="3", zone="a"))
    assert zone_text(host(world)) == dedent("""\
        _http._tcp.web.default.mesh 5 SRV 0 1 80 c1.web.default.mesh.
        _http._tcp.web.mesh 5 SRV 0 1 80 c1.web.default.mesh.
        appnet.mesh -
        backend.mesh -
        c1.default.mesh 5 A 10.214.0.2
        c1.default.mesh 5 AAAA fd00:0:0:1::1
        c1.mesh 5 A 10.214.0.2
        c1.mesh 5 AAAA fd00:0:0:1::1
        c1.web.default.mesh 5 A 10.214.0.2
        c1.web.default.mesh 5 AAAA fd00:0:0:1::1
        c1.web.default.mesh 5 TXT "version=3" "zone=a"
        c1.web.mesh 5 A 10.214.0.2
        c1.web.mesh 5 AAAA fd00:0:0:1::1
        c1.web.mesh 5 TXT "version=3" "zone=a"
        default.mesh -
        mesh 60 NS ns.mesh.
        mesh 60 SOA ns.mesh. hostmaster.mesh. 0 3600 600 604800 5
        node1.mesh 60 A 10.213.0.1
        node1.mesh 60 AAAA fd00::1
        ns.mesh 60 A 10.213.0.1
        ns.mesh 60 AAAA fd00::1
        web.default.mesh 5 A 10.214.0.2
        web.default.mesh 5 AAAA fd00:0:0:1::1
        web.default.mesh 5 TXT "version=3" "zone=a"
        web.mesh 5 A 10.214.0.2
        web.mesh 5 AAAA fd00:0:0:1::1
        web.mesh 5 TXT "version=3" "zone=a"
        web.node1.mesh 5 A 10.214.0.2
        web.node1.mesh 5 AAAA fd00:0:0:1::1
        web.node1.mesh 5 TXT "version=3" "zone=a\"""")


def test_reverse_names_and_their_zones() -> None:
    lines = zone_text(host(view(web_on(1))), reverse=True).splitlines()
    assert [line for line in lines if " PTR " in line] == [
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa"
        " 60 PTR node1.mesh.",
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa"
        " 5 PTR c1.default.mesh.",
        "1.0.213.10.in-addr.arpa 60 PTR node1.mesh.",
        "2.0.214.10.in-addr.arpa 5 PTR c1.default.mesh.",
    ]
    assert [line.split()[0] for line in lines if " SOA " in line] == [
        "0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
        "0.1.10.in-addr.arpa",
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
        "213.10.in-addr.arpa",
        "214.10.in-addr.arpa",
        "3.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
    ]


@pytest.mark.parametrize(
    ("prefix", "zones"),
    [
        ("10.0.0.0/8", ["10.in-addr.arpa"]),
        ("10.4.0.0/15", ["4.10.in-addr.arpa", "5.10.in-addr.arpa"]),
        ("192.0.2.252/30", [f"{last}.2.0.192.in-addr.arpa" for last in range(252, 256)]),
        ("fd00::/15", ["0.0.d.f.ip6.arpa", "1.0.d.f.ip6.arpa"]),
        ("2001:db8::/32", ["8.b.d.0.1.0.0.2.ip6.arpa"]),
    ],
)
def test_a_prefix_is_the_reverse_zones_that_exactly_cover_it(prefix: str, zones: list[str]) -> None:
    found = reverse_zones(network("x", 1, prefix).prefixes[0])
    assert [text(zone) for zone in found] == zones


def test_a_service_is_looked_for_in_the_askers_network_then_in_default_then_everywhere() -> None:
    world = view(
        web_on(1),
        web_on(2, net="appnet"),
        node(3, attachment("appnet", "a", "10.1.0.9"), instance("appnet", "api", "a")),
        node(4, attachment("backend", "b", "10.1.0.8"), instance("backend", "api", "b")),
    )
    seen = tables(world)
    addresses = {
        context: (owner_text(table, "web.mesh"), owner_text(table, "api.mesh"))
        for context, table in seen.items()
    }
    in_default = ["5 A 10.214.0.2", "5 AAAA fd00:0:0:1::1"]
    in_appnet = ["5 A 10.1.0.3", "5 AAAA fd00:0:0:1::2"]
    assert addresses == {
        HOST: (in_default, ["5 A 10.1.0.9", "5 A 10.1.0.8"]),
        "appnet": (in_appnet, ["5 A 10.1.0.9"]),
        "backend": (in_default, ["5 A 10.1.0.8"]),
        "default": (in_default, ["5 A 10.1.0.9", "5 A 10.1.0.8"]),
    }


def test_one_instance_and_one_node_are_looked_for_in_the_askers_network_as_well() -> None:
    seen = tables(view(both(1), web_on(2, "c9", net="appnet")))
    assert owner_text(seen[HOST], "c1.web.mesh") == ["5 A 10.214.0.2"]
    assert owner_text(seen["appnet"], "c1.web.mesh") == ["5 A 10.1.0.2"]
    assert owner_text(seen[HOST], "web.node1.mesh") == ["5 A 10.214.0.2"]
    assert owner_text(seen["appnet"], "web.node1.mesh") == ["5 A 10.1.0.2"]
    assert owner_text(seen[HOST], "c1.mesh") == ["5 A 10.214.0.2"]
    assert owner_text(seen["appnet"], "c1.mesh") == ["5 A 10.1.0.2"]


def both(number: int) -> Node:
    """A node with `web` in two networks, by attachments of the same name."""
    return node(
        number,
        attachment("default", "c1", "10.214.0.2"),
        attachment("appnet", "c1", "10.1.0.2"),
        instance("default", "web", "c1"),
        instance("appnet", "web", "c1"),
    )


def test_the_server_is_known_by_its_address_in_each_context() -> None:
    seen = tables(view(node(1)))
    assert {context: owner_text(table, "ns.mesh") for context, table in seen.items()} == {
        HOST: ["60 A 10.213.0.1", "60 AAAA fd00::1"],
        "appnet": ["60 A 10.1.0.1"],
        "backend": ["60 A 10.1.0.1", "60 AAAA fd00:0:0:3::1"],
        "default": ["60 A 10.214.0.1", "60 AAAA fd00:0:0:1::1"],
    }


@pytest.mark.parametrize(
    ("second", "reachable"),
    [
        (web_on(2, healthy=False), ALL),
        (web_on(2, weight=0), ALL),
        (web_on(2), [node_id(1)]),
    ],
    ids=["unhealthy", "without weight", "on a node out of reach"],
)
def test_an_instance_is_left_out_when(second: Node, reachable: list[str]) -> None:
    table = host(view(web_on(1), second), reachable=reachable)
    only_first = ["5 A 10.214.0.2", "5 AAAA fd00:0:0:1::1"]
    assert owner_text(table, "web.mesh") == only_first
    assert owner_text(table, "web.node2.mesh") == []
    assert len(owner_text(table, "_http._tcp.web.mesh") or []) == 1


def test_a_service_without_a_live_instance_keeps_its_names() -> None:
    table = host(view(web_on(1, healthy=False, version="1")))
    names = ("web.mesh", "web.default.mesh", "c1.web.mesh", "_http._tcp.web.mesh", "web.node1.mesh")
    assert {name: owner_text(table, name) for name in names} == {name: [] for name in names}
    assert owner_text(table, "c1.mesh") == ["5 A 10.214.0.2", "5 AAAA fd00:0:0:1::1"]
    assert owner_text(table, "db.mesh") is None


def test_our_own_node_is_always_in_reach() -> None:
    assert owner_text(host(view(web_on(1)), reachable=[]), "web.mesh")


def test_a_node_keeps_its_name_when_it_is_out_of_reach() -> None:
    table = host(view(node(1), web_on(2)), reachable=[])
    assert owner_text(table, "node2.mesh") == ["60 A 10.213.0.2", "60 AAAA fd00::2"]
    assert owner_text(table, "c1.default.mesh") == []


def test_instances_of_equal_name_on_two_nodes_are_told_apart_by_the_node() -> None:
    table = host(view(web_on(1), web_on(2)))
    assert owner_text(table, "_http._tcp.web.mesh") == [
        f"5 SRV 0 1 80 c1.web.default.{name}.mesh." for name in _by_id("node1", "node2")
    ]
    assert owner_text(table, "c1.web.default.node2.mesh") == [
        "5 A 10.214.0.3",
        "5 AAAA fd00:0:0:1::2",
    ]
    assert len(owner_text(table, "c1.web.default.mesh") or []) == 4
    assert owner_text(host(view(web_on(1))), "c1.web.default.node1.mesh") is None


def _by_id(*names: str) -> list[str]:
    """Nodes of these tests in the order of their ids."""
    return sorted(names, key=lambda name: node_id(int(name.removeprefix("node"))))


def test_ports_give_service_types_by_their_name_or_by_what_is_usual() -> None:
    ports = (ServicePort(80), ServicePort(53, "udp"), ServicePort(8080, "tcp", "admin"))
    odd = ServicePort(12345)
    world = view(
        node(
            1,
            attachment("default", "c1", "10.214.0.2"),
            instance("default", "x", "c1", *ports, odd),
        )
    )
    lines = [line for line in zone_text(host(world)).splitlines() if "SRV" in line]
    assert [line for line in lines if ".x.mesh" in line] == [
        "_admin._tcp.x.mesh 5 SRV 0 1 8080 c1.x.default.mesh.",
        "_domain._udp.x.mesh 5 SRV 0 1 53 c1.x.default.mesh.",
        "_http._tcp.x.mesh 5 SRV 0 1 80 c1.x.default.mesh.",
    ]


def test_a_weight_is_the_weight_of_the_srv_record() -> None:
    table = host(view(web_on(1, weight=7)))
    assert owner_text(table, "_http._tcp.web.mesh") == ["5 SRV 0 7 80 c1.web.default.mesh."]


def test_when_labels_collide_static_goes_before_node_before_network_before_service() -> None:
    crowd = node(
        1,
        attachment("default", "same", "10.214.0.2"),
        instance("default", "same", "same"),
        instance("default", "appnet", "same"),
        name="same",
    )
    table = host(view(crowd))
    assert owner_text(table, "same.mesh") == ["60 A 10.213.0.1", "60 AAAA fd00::1"]
    assert owner_text(table, "same.default.mesh") == ["5 A 10.214.0.2"]
    assert owner_text(table, "same.same.mesh") == ["5 A 10.214.0.2"]
    # A network has nothing at its own name, so it hides no service there.
    assert owner_text(table, "appnet.mesh") == ["5 A 10.214.0.2"]
    static = StaticRecord("same", "A", ("192.0.2.1",))
    assert owner_text(host(view(crowd, static=[static])), "same.mesh") == ["60 A 192.0.2.1"]


def test_a_node_hides_a_service_in_the_askers_network_too() -> None:
    world = view(node(1, name="web"), web_on(2, net="appnet"))
    for table in tables(world).values():
        assert owner_text(table, "web.mesh") == ["60 A 10.213.0.1", "60 AAAA fd00::1"]


def test_static_records_of_all_types() -> None:
    static = [
        StaticRecord("printer", "A", ("192.0.2.9", "192.0.2.10"), 300),
        StaticRecord("printer", "AAAA", ("2001:db8::9",)),
        StaticRecord("*.dev", "CNAME", ("web",)),
        StaticRecord("out", "CNAME", ("www.example.com.",)),
        StaticRecord("short", "CNAME", ("web.mesh",)),
        StaticRecord("note", "TXT", ('"two words" bare', r"\"quoted\" \195\164")),
        StaticRecord("_ldap._tcp", "SRV", ("1 2 389 printer",)),
        StaticRecord("@", "TXT", ("apex",)),
    ]
    zones = Zones(node_id(1))
    table = zones.update(view(node(1), static=static), [], ())[HOST]
    assert zones.problems == []
    assert {
        name: owner_text(table, name)
        for name in ("printer.mesh", "*.dev.mesh", "out.mesh", "short.mesh", "note.mesh")
    } == {
        "printer.mesh": ["300 A 192.0.2.9", "300 A 192.0.2.10", "60 AAAA 2001:db8::9"],
        "*.dev.mesh": ["60 CNAME web.mesh."],
        "out.mesh": ["60 CNAME www.example.com."],
        "short.mesh": ["60 CNAME web.mesh."],
        "note.mesh": [
            '60 TXT "two words" "bare"',
            r'60 TXT "\"quoted\"" "\195\164"',
        ],
    }
    assert owner_text(table, "_ldap._tcp.mesh") == ["60 SRV 1 2 389 printer.mesh."]
    assert (owner_text(table, "mesh") or [])[-1] == '60 TXT "apex"'


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (StaticRecord("x", "A", ("fd00::1",)), "'fd00::1' is not an IPv4 address"),
        (StaticRecord("x", "AAAA", ("10.0.0.1",)), "'10.0.0.1' is not an IPv6 address"),
        (StaticRecord("x", "MX", ("10 y",)), "type 'MX' is none of A, AAAA, CNAME, SRV, TXT"),
        (StaticRecord("x", "A", ()), "it has no value"),
        (StaticRecord("x", "SRV", ("0 0 web",)), "'0 0 web' is not PRIORITY WEIGHT PORT TARGET"),
        (StaticRecord("x", "SRV", ("0 0 70000 web",)), "'0 0 70000 web' is not PRIORITY WEIGHT"),
        (StaticRecord("x", "TXT", ('"open',)), "'\"open' has an open quote"),
        (StaticRecord("x", "TXT", ("\\300",)), "\\300 in a TXT record is over 255"),
        (StaticRecord("x", "TXT", ("x" * 5000,)), "a TXT record of over 4096 bytes"),
        (StaticRecord("a.*.x", "A", ("10.0.0.1",)), "an asterisk may only be the first label"),
        (StaticRecord("x..y", "A", ("10.0.0.1",)), "is not a DNS name"),
        (StaticRecord("x" * 64, "A", ("10.0.0.1",)), "is not a DNS name"),
        (StaticRecord("example.com.", "A", ("10.0.0.1",)), "is not in the zone mesh"),
        (StaticRecord("@", "CNAME", ("web",)), "a CNAME has one value and is not the apex"),
        (StaticRecord("x", "CNAME", ("a", "b")), "a CNAME has one value and is not the apex"),
    ],
)
def test_a_static_record_that_cannot_be_served_is_named_and_left_out(
    record: StaticRecord, problem: str
) -> None:
    zones = Zones(node_id(1))
    table = zones.update(view(web_on(1), static=[record]), [], ())[HOST]
    assert len(zones.problems) == 1
    assert problem in zones.problems[0]
    assert owner_text(table, "x.mesh") is None
    assert owner_text(table, "web.mesh")


def test_a_static_cname_stands_alone() -> None:
    static = [
        StaticRecord("x", "CNAME", ("web",)),
        StaticRecord("x", "TXT", ("hidden",)),
    ]
    zones = Zones(node_id(1))
    table = zones.update(view(node(1), static=static), [], ())[HOST]
    assert owner_text(table, "x.mesh") == ["60 CNAME web.mesh."]
    assert zones.problems == ["static CNAME at x.mesh hides the other records there"]


def test_nobody_takes_the_servers_name_or_the_apex() -> None:
    table = host(view(node(1), static=[StaticRecord("ns", "A", ("192.0.2.66",))]))
    assert owner_text(table, "ns.mesh") == ["60 A 10.213.0.1", "60 AAAA fd00::1"]


def test_an_address_in_two_networks_is_named_as_the_asker_knows_it() -> None:
    world = view(
        node(1, attachment("appnet", "a", "10.1.0.5")),
        node(2, attachment("backend", "b", "10.1.0.5")),
    )
    seen = tables(world)
    name = "5.0.1.10.in-addr.arpa"
    assert owner_text(seen["appnet"], name) == ["5 PTR a.appnet.mesh."]
    assert owner_text(seen["backend"], name) == ["5 PTR b.backend.mesh."]
    assert owner_text(seen[HOST], name) == ["5 PTR a.appnet.mesh."]


def test_names_too_long_for_dns_are_left_out_and_nothing_else() -> None:
    long = "a" * 63
    wide = network(long, 9, "10.9.0.0/24")
    crowd = [
        node(
            number,
            attachment(long, "b" * 63, f"10.9.0.{number + 1}"),
            instance(long, "c" * 63, "b" * 63),
            name="d" * 62 + str(number),
        )
        for number in (1, 2)
    ]
    seen = Zones(node_id(1)).update(view(*crowd, networks=[wide]), ALL, (long,))
    found = owner_text(seen[HOST], f"{'c' * 63}.{long}.mesh") or []
    assert sorted(found) == ["5 A 10.9.0.2", "5 A 10.9.0.3"]
    assert all(len(owner) <= 255 for _, layer in seen[HOST].layers for owner in layer)


def test_layers_in_which_nothing_changed_stay_the_same_objects() -> None:
    zones = Zones(node_id(1))
    first, second = web_on(1), web_on(2)
    before = zones.update(view(first, second), ALL, LOCAL)
    same = zones.update(view(first, second), ALL, LOCAL)
    after = zones.update(view(first, web_on(2, healthy=False)), ALL, LOCAL)
    assert layers(before).keys() == layers(after).keys()
    assert all(layers(before)[name] is layers(same)[name] for name in layers(before))
    assert [name for name in layers(before) if layers(before)[name] is not layers(after)[name]] == [
        COMMON
    ]


def test_a_change_of_one_instance_changes_only_its_names() -> None:
    zones = Zones(node_id(1))
    others = [web_on(number, f"c{number}") for number in (1, 3, 4)]
    before = layers(zones.update(view(*others, web_on(2, "c2")), ALL, LOCAL))[COMMON]
    after = layers(zones.update(view(*others, web_on(2, "c2", healthy=False)), ALL, LOCAL))[COMMON]
    assert sorted(text(owner) for owner in differences(before, after)) == [
        "_http._tcp.web.default.mesh",
        "_http._tcp.web.mesh",
        "c2.web.default.mesh",
        "c2.web.mesh",
        "web.default.mesh",
        "web.mesh",
        "web.node2.mesh",
    ]


def layers(found: Mapping[str, Table]) -> dict[str, Mapping[bytes, bytes]]:
    return {name: layer for table in found.values() for name, layer in table.layers}


SERVICES = ("web", "api", "node2", "appnet")
NAMES = ("c1", "c2", "web")
NETS = ("default", "appnet", "backend")


@st.composite
def nodes(draw: st.DrawFn, number: int) -> Node:
    """A node with some of a few attachments and services, so that names collide often."""
    places = draw(st.sets(st.tuples(st.sampled_from(NETS), st.sampled_from(NAMES))))
    things = [
        attachment(net, name, f"10.1.0.{1 + number * 9 + at}")
        for at, (net, name) in enumerate(sorted(places))
    ]
    homes = st.sampled_from(sorted(places)) if places else st.nothing()
    offers = draw(st.sets(st.tuples(homes, st.sampled_from(SERVICES)))) if places else set()
    offered = [
        instance(net, service, name, healthy=draw(st.booleans()), weight=draw(st.integers(0, 2)))
        for (net, name), service in sorted(offers)
    ]
    return node(number, *things, *offered, name=draw(st.sampled_from((f"node{number}", "web"))))


@st.composite
def moments(draw: st.DrawFn, pool: list[Node]) -> tuple[View, list[str], list[str]]:
    """A view of some nodes, who is in reach, and which networks this node serves."""
    chosen = {one.id: one for one in draw(st.lists(st.sampled_from(pool), max_size=4))}
    static = draw(st.sets(st.sampled_from(("web", "c1", "*.web", "node2"))))
    records = [StaticRecord(name, "A", ("192.0.2.1",)) for name in sorted(static)]
    reachable = draw(st.sets(st.sampled_from(ALL)))
    local = draw(st.sets(st.sampled_from(NETS)))
    return view(*chosen.values(), static=records), sorted(reachable), sorted(local)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[View, list[str], list[str]]]:
    """Moments of a mesh whose nodes often stay the same objects, as those of a view do."""
    numbers = draw(st.lists(st.integers(1, 4), min_size=2, max_size=6))
    pool = [draw(nodes(number)) for number in numbers]
    return draw(st.lists(moments(pool), min_size=1, max_size=6))


@settings(max_examples=200)
@given(histories())
def test_a_zone_brought_up_to_date_is_the_zone_made_anew(
    history: list[tuple[View, list[str], list[str]]],
) -> None:
    zones = Zones(node_id(1))
    for moment in history:
        found = zones.update(*moment)
    assert found == Zones(node_id(1)).update(*history[-1])


@settings(max_examples=60)
@given(histories())
def test_every_record_of_every_zone_is_read_by_another_library(
    history: list[tuple[View, list[str], list[str]]],
) -> None:
    for table in Zones(node_id(1)).update(*history[0]).values():
        assert zone_text(table)
        assert zone_text(table, reverse=True)
