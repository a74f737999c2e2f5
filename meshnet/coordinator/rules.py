"""Pure. Who may have what: token outcomes, names, addresses, lease blocks, network prefixes.

Addresses are given from the bottom: the lowest that is free. Lease blocks of a network are aligned
pieces of its prefix; a block is free when nothing that is held overlaps it and it has an address a
container could use. The first address of a network is its gateway, and of IPv4 the network address
and the broadcast address are nobody's either.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_network

from meshnet.errors import (
    BadInput,
    Conflict,
    TokenError,
    TokenExpired,
    TokenRevoked,
    TokenUnknown,
    TokenUsedUp,
)
from meshnet.model.addresses import Address, Prefix, gateway

BLOCK = {4: 26, 6: 112}
SMALLER_BLOCKS = 4
BLOCKS_IN_SMALL_NETWORK_BITS = 4
FIRST_VNI = 1000
_NEW_TOKEN = "Ask for a new one: `meshnet token create` on the coordinator."


# Tokens


@dataclass(frozen=True, slots=True)
class TokenState:
    """A token as the store has it: a hash of its secret, never the secret."""

    id: str
    hash: bytes
    created: int
    expires: int
    uses: int
    used: int = 0
    revoked: bool = False
    tags: tuple[str, ...] = ()


def token_id(secret: bytes) -> str:
    """Return the public name of a token: 10 hex digits that tell nothing of the secret."""
    return hashlib.sha256(b"meshnet token id\0" + secret).hexdigest()[:10]


def token_hash(secret: bytes) -> bytes:
    """Return what the store keeps. The secret has 128 random bits, so no salt or stretch."""
    return hashlib.sha256(b"meshnet token secret\0" + secret).digest()


def check_secret(token: TokenState | None, secret: bytes) -> TokenState:
    """Return the token that `secret` belongs to; TokenUnknown, in constant time, otherwise."""
    known = token.hash if token else bytes(32)
    if not hmac.compare_digest(known, token_hash(secret)) or token is None:
        raise TokenUnknown("this mesh never gave out that token", _NEW_TOKEN)
    return token


def token_fault(token: TokenState, now: int) -> TokenError | None:
    """Return why a token cannot be redeemed now, or None when it can."""
    if token.revoked:
        return TokenRevoked(f"token {token.id} was revoked", _NEW_TOKEN)
    if token.expires <= now:
        return TokenExpired(f"token {token.id} is past its time to live", _NEW_TOKEN)
    if token.used >= token.uses:
        times = "once" if token.uses == 1 else f"{token.uses} times"
        return TokenUsedUp(f"token {token.id} was good {times} and is used up", _NEW_TOKEN)
    return None


# Mesh addresses


def lowest_free(prefix: IPv4Network, taken: Collection[int]) -> IPv4Address:
    """Return the lowest host address of the mesh prefix that is not taken; Conflict when full."""
    for number in range(int(prefix.network_address) + 1, int(prefix.broadcast_address)):
        if number not in taken:
            return IPv4Address(number)
    raise Conflict(f"the mesh prefix {prefix} is full", "Revoke nodes that are gone.")


# Leases


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as the store has it."""

    network: str
    prefix: Prefix
    node: str
    not_after: int


def is_usable(address: Address, prefix: Prefix) -> bool:
    """Say whether a container may have `address` in a network of that prefix."""
    if address not in prefix or address == gateway(prefix):
        return False
    if address == prefix.network_address:
        return False
    return prefix.version == 6 or address != prefix.broadcast_address


def block_length(prefix: Prefix) -> int:
    """Return the length of a lease block: /26 or /112, smaller in a network that is small."""
    largest = prefix.prefixlen + BLOCKS_IN_SMALL_NETWORK_BITS
    return min(max(BLOCK[prefix.version], largest), prefix.max_prefixlen)


def pick_block(prefix: Prefix, held: Iterable[Prefix]) -> Prefix | None:
    """Return the lowest free block of a network's prefix; smaller ones when it is nearly full."""
    taken = sorted((int(p.network_address), int(p.broadcast_address)) for p in held)
    largest = block_length(prefix)
    for length in range(largest, min(largest + SMALLER_BLOCKS, prefix.max_prefixlen) + 1):
        if (block := _lowest_gap(prefix, length, taken)) is not None:
            return block
    return None


def _lowest_gap(prefix: Prefix, length: int, taken: Sequence[tuple[int, int]]) -> Prefix | None:
    size = 1 << (prefix.max_prefixlen - length)
    start, end = int(prefix.network_address), int(prefix.broadcast_address)
    for first, last in [*taken, (end + 1, end + 1)]:
        while start + size <= first:
            block = _prefix(prefix, start, length)
            if _has_usable(block, prefix):
                return block
            start += size
        if last >= start:
            start = -(-(last + 1) // size) * size
    return None


def _has_usable(block: Prefix, prefix: Prefix) -> bool:
    """A block that is not all reserved: of one end of the network, four addresses suffice."""
    first, last = block.network_address, block.broadcast_address
    if block.num_addresses > 3:
        return True
    return any(is_usable(first + step, prefix) for step in range(int(last) - int(first) + 1))


def _prefix(like: Prefix, start: int, length: int) -> Prefix:
    return ip_network((start.to_bytes(like.max_prefixlen // 8, "big"), length))


def is_taken(held: Held, now: int, grace: int) -> bool:
    """A lease keeps its block for a grace after it ends, for clocks that disagree."""
    return held.not_after + grace > now


def overlap(one: Prefix, other: Prefix) -> bool:
    """Say whether two prefixes of any family share an address."""
    return (
        one.version == other.version
        and int(one.network_address) <= int(other.broadcast_address)
        and int(other.network_address) <= int(one.broadcast_address)
    )


def host_prefix(address: Address) -> Prefix:
    """Return the prefix that holds one address only."""
    return ip_network((address.packed, address.max_prefixlen))


def check_fixed(address: Address, prefixes: Iterable[Prefix], network: str) -> None:
    """Return when a container may ask for `address` in a network, else raise BadInput."""
    for prefix in prefixes:
        if is_usable(address, prefix):
            return
        if address in prefix:
            raise BadInput(f"address {address} is reserved in network {network}")
    raise BadInput(f"address {address} is not in network {network}")


# Networks


def free_prefix4(first: IPv4Network, pool: Iterable[IPv4Network], used: Iterable[Prefix]) -> Prefix:
    """Return `first` or else the next of `pool` that overlaps no prefix in use."""
    taken = [prefix for prefix in used if isinstance(prefix, IPv4Network)]
    for candidate in (first, *pool):
        if not any(candidate.overlaps(prefix) for prefix in taken):
            return candidate
    raise Conflict(
        "every automatic network prefix is in use", "Give one by --prefix, or remove a network."
    )


def check_network_prefix(prefix: Prefix, mesh: Iterable[Prefix]) -> None:
    """Return when a network may have `prefix`, else raise BadInput.

    Networks may overlap each other, since they never meet; not the mesh's own addresses.
    """
    if prefix.max_prefixlen - prefix.prefixlen < 2:
        raise BadInput(f"prefix {prefix} is too small for a network", "Use a /30 or larger.")
    if prefix.is_multicast or prefix.is_loopback or prefix.is_unspecified:
        raise BadInput(f"prefix {prefix} cannot be used by hosts")
    for own in mesh:
        if overlap(own, prefix):
            raise BadInput(f"prefix {prefix} overlaps the mesh's own {own}")


def check_free_name(name: str, what: str, holder: str) -> None:
    """Raise Conflict when something else (`holder`, such as "network x") has the name."""
    if holder:
        raise Conflict(f"{what} name {name!r} is taken by {holder}", "Choose another name.")
