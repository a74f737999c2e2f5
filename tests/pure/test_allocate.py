"""Addresses out of leases: free, in turn, never one that has another meaning."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import BadInput, Conflict
from meshnet.model.addresses import Address
from meshnet.model.statements import Lease, Network
from meshnet.plan.allocate import barred, check_fixed, is_nearly_full, next_free

NETWORK = Network("default", 1000, (ip_network("10.214.0.0/24"), ip_network("fd00::/64")))


def lease(prefix: str) -> Lease:
    return Lease("default", "node", ip_network(prefix), 1 << 40)


@given(st.sets(st.integers(0, 63)), st.integers(0, 63))
def test_the_next_address_is_free_allowed_and_leased(used: set[int], last: int) -> None:
    block = ip_network("10.214.0.0/26")
    taken = {block[number] for number in used}
    found = next_free(NETWORK, [lease("10.214.0.0/26")], taken, block[last])
    free = set(block) - taken - barred(NETWORK)
    assert (found in free) if free else found is None


def test_an_address_given_back_rests_until_its_turn_comes_again() -> None:
    block, used, last = [lease("10.214.0.64/30")], set[Address](), None
    given_out = []
    for _ in range(6):
        last = next_free(NETWORK, block, used, last)
        given_out.append(str(last))
    assert given_out == [
        "10.214.0.64",
        "10.214.0.65",
        "10.214.0.66",
        "10.214.0.67",
        "10.214.0.64",
        "10.214.0.65",
    ]


def test_the_gateway_and_the_ends_of_a_network_are_nobodys() -> None:
    assert {str(address) for address in barred(NETWORK)} == {
        "10.214.0.0",
        "10.214.0.1",
        "10.214.0.255",
        "fd00::",
        "fd00::1",
    }


def test_a_block_is_nearly_full_when_three_quarters_are_used() -> None:
    block = [lease("10.214.0.64/29")]
    used = {IPv4Address("10.214.0.64") + number for number in range(5)}
    assert not is_nearly_full(block, used)
    assert is_nearly_full(block, used | {ip_address("10.214.0.70")})


def test_a_fixed_address_must_be_in_the_network_free_and_without_other_meaning() -> None:
    leases = [lease("10.214.0.64/26")]
    assert check_fixed(NETWORK, leases, set(), ip_address("10.214.0.70"))
    assert not check_fixed(NETWORK, leases, set(), ip_address("10.214.0.20"))
    with pytest.raises(BadInput, match="not in network"):
        check_fixed(NETWORK, leases, set(), ip_address("192.0.2.1"))
    with pytest.raises(BadInput, match="another meaning"):
        check_fixed(NETWORK, leases, set(), ip_address("10.214.0.1"))
    with pytest.raises(Conflict, match="in use"):
        check_fixed(NETWORK, leases, {ip_address("10.214.0.70")}, ip_address("10.214.0.70"))
