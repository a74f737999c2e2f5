"""Pure. Whether a node is behind a NAT, from where others see it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import BadInput
from meshnet.model.addresses import Address, Endpoint
from meshnet.paths.sightings import FORMER_SECONDS, Sightings
from meshnet.wire.probe import ANSWER, LAYOUT, Probe

HOME, OTHER, ROUTER = (ip_address(a) for a in ("192.168.1.2", "10.9.9.9", "198.51.100.7"))


def test_who_is_seen_at_its_own_address_is_behind_no_nat() -> None:
    sightings = Sightings({HOME})
    assert not sightings.behind_nat
    sightings.seen_by_coordinator(HOME, 0)
    sightings.seen_by_peer("a", HOME, 0)
    assert not sightings.behind_nat


def test_one_peer_that_sees_another_address_is_enough() -> None:
    sightings = Sightings({HOME})
    sightings.seen_by_peer("beside us", HOME, 0)
    sightings.seen_by_peer("far away", ROUTER, 0)
    assert sightings.behind_nat
    sightings.seen_by_peer("far away", HOME, 1)
    assert not sightings.behind_nat


def test_the_coordinators_word_counts_until_a_peer_speaks() -> None:
    sightings = Sightings({HOME})
    sightings.seen_by_coordinator(ROUTER, 0)
    assert sightings.behind_nat
    sightings.seen_by_peer("a", HOME, 0)
    assert not sightings.behind_nat
    sightings.keep([])
    assert sightings.behind_nat


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::7%eth0", "169.254.3.4"])
def test_on_the_same_machine_or_link_there_is_no_nat(address: str) -> None:
    sightings = Sightings({HOME})
    sightings.seen_by_coordinator(ip_address(address), 0)
    assert not sightings.behind_nat
    sightings.seen_by_peer("a", ip_address(address), 0)
    assert not sightings.behind_nat


def test_an_ipv4_address_may_come_as_an_ipv6_one() -> None:
    sightings = Sightings({HOME})
    sightings.seen_by_coordinator(ip_address("::ffff:192.168.1.2"), 0)
    assert not sightings.behind_nat


def test_a_peer_that_looked_before_we_moved_is_no_proof_and_later_it_is() -> None:
    sightings = Sightings({HOME})
    sightings.moved({OTHER}, 100)
    sightings.seen_by_peer("a", HOME, 101)
    assert not sightings.behind_nat
    sightings.seen_by_peer("a", HOME, 100 + FORMER_SECONDS)
    assert sightings.behind_nat


def test_who_moves_twice_at_once_was_at_both_places() -> None:
    sightings = Sightings({HOME})
    sightings.moved({OTHER}, 100)
    sightings.moved({ip_address("10.9.9.10")}, 101)
    sightings.seen_by_peer("a", HOME, 102)
    sightings.seen_by_peer("b", OTHER, 102)
    assert not sightings.behind_nat


@given(st.ip_addresses().map(lambda a: getattr(a, "ipv4_mapped", None) or a), st.integers(1, 65535))
def test_an_answer_brings_the_endpoint_that_was_seen(address: Address, port: int) -> None:
    probe = Probe(ANSWER, 7, "ab" * 16, Endpoint(address, port))
    assert Probe.parse(probe.pack()) == probe


@pytest.mark.parametrize("more", [1, 17, 19])
def test_an_answer_with_half_an_endpoint_is_refused(more: int) -> None:
    with pytest.raises(BadInput):
        Probe.parse(Probe(ANSWER, 7, "ab" * 16).pack() + bytes(more))


def test_an_endpoint_without_a_port_is_refused() -> None:
    with pytest.raises(BadInput):
        Probe.parse(Probe(ANSWER, 7, "ab" * 16).pack()[: LAYOUT.size] + bytes(18))
