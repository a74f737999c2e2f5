"""Pure. Who may have which token use, address, block and prefix."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.coordinator import rules
from meshnet.coordinator.core import Terms
from meshnet.coordinator.rules import TokenState
from meshnet.errors import (
    BadInput,
    Conflict,
    TokenExpired,
    TokenRevoked,
    TokenUnknown,
    TokenUsedUp,
)
from meshnet.model.addresses import Prefix, gateway

prefixes4 = st.integers(8, 30).flatmap(
    lambda length: st.integers(0, (1 << length) - 1).map(
        lambda number: ip_network((number << (32 - length), length))
    )
)
prefixes6 = st.integers(48, 126).map(lambda length: ip_network((0xFD << 120, length)))
prefixes = prefixes4 | prefixes6


# Tokens

SECRET = bytes(range(16))


def token(**changes: object) -> TokenState:
    values = {"id": rules.token_id(SECRET), "hash": rules.token_hash(SECRET), "created": 0}
    return TokenState(**{**values, "expires": 100, "uses": 2, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "now", "fault"),
    [
        (token(), 99, type(None)),
        (token(used=1), 0, type(None)),
        (token(), 100, TokenExpired),
        (token(used=2), 99, TokenUsedUp),
        (token(revoked=True), 0, TokenRevoked),
        (token(revoked=True, used=2), 100, TokenRevoked),
        (token(used=2), 100, TokenExpired),
    ],
    ids=["fresh", "one use left", "expired", "used up", "revoked", "all of it", "late and used"],
)
def test_each_state_of_a_token_has_its_own_outcome(
    state: TokenState, now: int, fault: type[Exception]
) -> None:
    assert type(rules.token_fault(state, now)) is fault


def test_the_secret_opens_its_token_and_no_other_bytes_do() -> None:
    assert rules.check_secret(token(), SECRET) == token()
    for state, secret in ((token(), bytes(16)), (None, SECRET), (None, b"")):
        with pytest.raises(TokenUnknown):
            rules.check_secret(state, secret)


def test_what_is_stored_of_a_secret_does_not_hold_it() -> None:
    stored = (rules.token_id(SECRET), rules.token_hash(SECRET))
    assert SECRET not in stored[1]
    assert SECRET.hex() not in stored[0] + stored[1].hex()


# Mesh addresses


@given(st.integers(20, 28), st.sets(st.integers(0, 600)))
def test_a_mesh_address_is_the_lowest_host_address_nobody_has(length: int, taken: set[int]) -> None:
    prefix = IPv4Network((0x0AD50000, length))
    held = {0x0AD50000 + number for number in taken}
    hosts = [host for host in prefix.hosts() if int(host) not in held]
    if hosts:
        assert rules.lowest_free(prefix, held) == hosts[0]
    else:
        with pytest.raises(Conflict, match="full"):
            rules.lowest_free(prefix, held)


# Blocks


@given(prefixes, st.integers(1, 60))
def test_blocks_lie_in_the_network_never_overlap_and_hold_a_usable_address(
    prefix: Prefix, count: int
) -> None:
    held: list[Prefix] = []
    for _ in range(count):
        block = rules.pick_block(prefix, held)
        if block is None:
            break
        assert block.network_address in prefix
        assert block.broadcast_address in prefix
        assert not any(rules.overlap(block, other) for other in held)
        assert usable(block, prefix)
        held.append(block)


@given(prefixes4.filter(lambda prefix: prefix.prefixlen >= 22))
def test_a_small_network_is_given_out_to_its_last_usable_address(prefix: IPv4Network) -> None:
    held: list[Prefix] = []
    while (block := rules.pick_block(prefix, held)) is not None:
        held.append(block)
    given_out = sum(usable(block, prefix) for block in held)
    assert given_out == sum(rules.is_usable(address, prefix) for address in prefix)


@given(st.sets(st.integers(0, 255)), st.data())
def test_a_block_finds_room_between_fixed_addresses(fixed: set[int], data: st.DataObject) -> None:
    prefix = ip_network("10.0.0.0/24")
    held = [ip_network((0x0A000000 + number, 32)) for number in fixed]
    block = rules.pick_block(prefix, data.draw(st.permutations(held)))
    free = [a for a in prefix if int(a) - 0x0A000000 not in fixed and rules.is_usable(a, prefix)]
    assert (block is None) == (not any(whole_gap(prefix, held)) or not free)
    if block is not None:
        assert not any(rules.overlap(block, other) for other in held)


def whole_gap(prefix: Prefix, held: list[Prefix]) -> list[bool]:
    """Say of each aligned smallest block whether it is free and useful."""
    length = rules.block_length(prefix) + rules.SMALLER_BLOCKS
    return [
        not any(rules.overlap(block, other) for other in held) and usable(block, prefix) > 0
        for block in prefix.subnets(new_prefix=length)
    ]


def usable(block: Prefix, prefix: Prefix) -> int:
    if block.num_addresses > 1024:
        return 1024
    return sum(rules.is_usable(address, prefix) for address in block)


def test_the_first_block_of_the_default_network_is_a_26_and_of_ipv6_a_112() -> None:
    assert rules.pick_block(ip_network("10.214.0.0/16"), []) == ip_network("10.214.0.0/26")
    assert rules.pick_block(ip_network("fd00::/64"), []) == ip_network("fd00::/112")


@given(prefixes)
def test_gateway_network_and_broadcast_address_are_nobodys(prefix: Prefix) -> None:
    assert not rules.is_usable(gateway(prefix), prefix)
    assert not rules.is_usable(prefix.network_address, prefix)
    if prefix.version == 4:
        assert not rules.is_usable(prefix.broadcast_address, prefix)


@pytest.mark.parametrize("address", ["10.0.0.0", "10.0.0.1", "10.0.0.255", "10.0.1.1", "fd00::5"])
def test_a_reserved_or_foreign_address_cannot_be_asked_for(address: str) -> None:
    with pytest.raises(BadInput):
        rules.check_fixed(ip_address(address), [ip_network("10.0.0.0/24")], "x")


@given(prefixes, prefixes)
def test_overlap_is_what_the_standard_library_says(one: Prefix, other: Prefix) -> None:
    same_family = one.version == other.version
    assert rules.overlap(one, other) == (same_family and one.overlaps(other))


def test_a_block_is_free_again_a_grace_after_its_lease_ends() -> None:
    held = rules.Held("x", ip_network("10.0.0.0/26"), "n", 100)
    assert [rules.is_taken(held, now, 10) for now in (99, 100, 109, 110)] == [
        True,
        True,
        True,
        False,
    ]


# Networks


def test_networks_take_the_first_prefix_then_the_pool_in_order_then_there_is_none() -> None:
    terms = Terms()
    used: list[Prefix] = []
    for _ in range(266):
        used.append(rules.free_prefix4(terms.first_prefix4, terms.pool4, used))
    assert [str(used[place]) for place in (0, 1, 25, 26, 265)] == [
        "10.214.0.0/16",
        "10.215.0.0/16",
        "10.239.0.0/16",
        "10.240.0.0/20",
        "10.254.240.0/20",
    ]
    with pytest.raises(Conflict):
        rules.free_prefix4(terms.first_prefix4, terms.pool4, used)


@pytest.mark.parametrize("prefix", ["10.213.4.0/24", "10.0.0.0/8", "fd12::/48", "fd12:0:0:1::/64"])
def test_a_network_cannot_have_the_meshs_own_addresses(prefix: str) -> None:
    mesh = (ip_network("10.213.0.0/16"), ip_network("fd12::/48"))
    with pytest.raises(BadInput, match="overlaps"):
        rules.check_network_prefix(ip_network(prefix), mesh)


@pytest.mark.parametrize("prefix", ["10.0.0.0/31", "10.0.0.1/32", "fd00::/127", "224.0.0.0/8"])
def test_a_prefix_that_holds_no_hosts_is_no_networks(prefix: str) -> None:
    with pytest.raises(BadInput):
        rules.check_network_prefix(ip_network(prefix), ())
