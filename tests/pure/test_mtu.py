"""Every MTU follows from the links at both ends of a path, and from nothing else."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest

from meshnet.errors import BadInput
from meshnet.model.addresses import Endpoint
from meshnet.model.keys import PrivateKey
from meshnet.model.records import Candidate, NodeRecord
from meshnet.plan.mtu import (
    best_mtu,
    device_mtu,
    limits,
    network_mtu,
    peer_mtu,
    route_mtu,
    tunnel_mtu,
    ways,
)

KEY = PrivateKey(bytes(range(32))).public
HERE4, HERE6 = "192.0.2.9/24", "2001:db8::9/64"
THERE4, THERE6 = "192.0.2.7", "2001:db8::7"


def underlay(*items: tuple[str, int, str]) -> list[tuple[str, int, object]]:
    return [(link, mtu, ip_interface(address)) for link, mtu, address in items]


def record(mtu: int, **candidates: int) -> NodeRecord:
    known = {"four": THERE4, "six": THERE6}
    return NodeRecord(
        wireguard=(KEY,),
        candidates=tuple(
            Candidate(Endpoint(ip_address(known[name]), 1), mtu=value)
            for name, value in candidates.items()
        ),
        mtu=mtu,
    )


def at(address: str) -> Endpoint:
    return Endpoint(ip_address(address), 1)


@pytest.mark.parametrize(
    ("items", "tunnel"),
    [
        ([("eth0", 1500, HERE4)], 1440),
        ([("eth0", 1500, HERE6)], 1420),
        ([("eth0", 1500, HERE4), ("eth0", 1500, HERE6)], 1420),
        ([("eth0", 9000, HERE4), ("eth1", 1500, HERE6)], 1420),
        ([("eth0", 1400, HERE4), ("eth0", 1400, HERE6)], 1330),
        ([("eth0", 1280, HERE4)], 1330),
        ([], 1420),
    ],
)
def test_what_a_node_says_for_all_its_ways_is_that_of_the_narrowest(
    items: list[tuple[str, int, str]], tunnel: int
) -> None:
    assert tunnel_mtu(ways(underlay(*items))) == tunnel


@pytest.mark.parametrize(
    ("endpoint", "there", "expected"),
    [
        (THERE4, record(1420, four=8940, six=1420), 8940),
        (THERE6, record(1420, four=8940, six=1420), 1420),
        (THERE4, record(1420, four=1440), 1440),
        ("198.51.100.7", record(1420, four=8940, six=1420), 1420),
        (THERE4, record(1330), 1330),
        (None, record(9000), 1420),
    ],
)
def test_what_fits_to_a_peer_is_what_the_links_of_its_endpoint_carry(
    endpoint: str | None, there: NodeRecord, expected: int
) -> None:
    here = ways(underlay(("eth0", 9000, HERE4), ("eth1", 1500, HERE6)))
    assert peer_mtu(at(endpoint) if endpoint else None, here, there) == expected


def test_the_link_that_an_endpoint_lies_on_counts_and_no_other() -> None:
    here = ways(underlay(("eth0", 1500, "198.51.100.9/24"), ("eth1", 9000, HERE4)))
    wide = record(1420, four=8940)
    assert peer_mtu(at(THERE4), here, wide) == 8940
    assert peer_mtu(at("203.0.113.1"), here, record(8940)) == 1440


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ([1420], 1370),
        ([1440, 1420], 1370),
        ([8940, 1440, 1420], 1390),
        ([8940, 8920, 1420], 8870),
        ([1330, 1200], 1280),
    ],
)
def test_a_network_carries_the_most_that_two_nodes_can_exchange_and_what_ipv6_needs(
    best: list[int], expected: int
) -> None:
    assert network_mtu(best) == expected


def test_the_best_of_a_node_is_its_widest_way() -> None:
    assert best_mtu(record(1420, four=8940, six=1420)) == 8940
    assert best_mtu(record(1330)) == 1330


def test_the_device_is_as_wide_as_the_widest_peer_and_the_others_get_routes() -> None:
    found = limits({"wide": 8940, "dual": 1420, "narrow": 1200})
    device = device_mtu(found.values(), 1420)
    routes = {
        name: (route_mtu(mtu, device, 4), route_mtu(mtu, device, 6)) for name, mtu in found.items()
    }
    assert device == 8940
    assert routes == {"wide": (0, 0), "dual": (1408, 1408), "narrow": (1200, 1280)}


def test_where_all_are_alike_no_peer_needs_a_route_and_no_byte_is_lost_to_padding() -> None:
    found = limits(dict.fromkeys("abc", 1420))
    device = device_mtu(found.values(), 1420)
    assert device == 1420
    assert {route_mtu(mtu, device, 4) for mtu in found.values()} == {0}


def test_a_device_is_never_narrower_than_a_network_needs() -> None:
    assert device_mtu([1200], 1420) == 1330
    assert device_mtu([], 1420) == 1420


@pytest.mark.parametrize("mtu", [-1, 575, 65536])
def test_a_candidate_with_an_impossible_mtu_is_refused(mtu: int) -> None:
    with pytest.raises(BadInput, match="tunnel MTU"):
        Candidate(at(THERE4), mtu=mtu)
