"""Pure. Addresses for attachments, out of the leases of this node.

No coordinator is asked: a lease is a block of a network's prefix that only this node may hand out.
The next free address after the one handed out last is taken, so that an address just given back
rests while its old neighbours forget it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from ipaddress import ip_address

from meshnet.errors import BadInput, Conflict, Unavailable
from meshnet.model.addresses import Address, Prefix, gateway
from meshnet.model.statements import Lease, Network

NEARLY_FULL = 0.75
SCAN_LIMIT = 1 << 16


def next_free(
    network: Network, leases: Iterable[Lease], used: Collection[Address], last: Address | None
) -> Address | None:
    """Return the next free address after `last` in the blocks (all of one family), or None."""
    blocks = sorted((lease.prefix for lease in leases), key=lambda prefix: prefix.network_address)
    taken = set(used) | barred(network)
    first = None
    for address in _addresses(blocks):
        if address in taken:
            continue
        if last is None or int(address) > int(last):
            return address
        first = first or address
    return first


def barred(network: Network) -> set[Address]:
    """Return the addresses of a network that no attachment may have."""
    barred: set[Address] = set()
    for prefix in network.prefixes:
        barred |= {prefix.network_address, gateway(prefix)}
        if prefix.version == 4:
            barred.add(prefix.broadcast_address)
    return barred


def _addresses(blocks: Iterable[Prefix]) -> Iterator[Address]:
    for block in blocks:
        first = int(block.network_address)
        for offset in range(min(block.num_addresses, SCAN_LIMIT)):
            yield _address(first + offset, block.version)


def _address(value: int, version: int) -> Address:
    packed = value.to_bytes(4 if version == 4 else 16, "big")
    return ip_address(packed)


def is_nearly_full(leases: Iterable[Lease], used: Collection[Address]) -> bool:
    """Say whether most addresses of these blocks are in use, so that another block is due."""
    prefixes = [lease.prefix for lease in leases]
    room = sum(min(prefix.num_addresses, SCAN_LIMIT) for prefix in prefixes)
    taken = sum(1 for address in used if any(address in prefix for prefix in prefixes))
    return taken >= room * NEARLY_FULL


def check_fixed(
    network: Network, leases: Iterable[Lease], used: Collection[Address], address: Address
) -> bool:
    """Say whether a fixed address is ours to give; False means a lease for it is needed first.

    Raises BadInput when it cannot be an attachment's address in this network at all, Conflict when
    it is in use.
    """
    if not any(address in prefix for prefix in network.prefixes):
        prefixes = ", ".join(str(prefix) for prefix in network.prefixes)
        raise BadInput(f"address {address} is not in network {network.name} ({prefixes})")
    if address in barred(network):
        raise BadInput(f"address {address} has another meaning in network {network.name}")
    if address in used:
        raise Conflict(
            f"address {address} is in use on network {network.name}", "Choose another address."
        )
    return any(address in lease.prefix for lease in leases)


def exhausted(network: str) -> Unavailable:
    """Return the error for a network whose blocks on this node are full."""
    return Unavailable(
        f"this node's leases of network {network} are used up and no coordinator gave another",
        "Detach something, or see why no coordinator answers: meshnet status.",
    )
