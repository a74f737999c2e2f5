"""Driver. A network's FDB and neighbours on its VXLAN device: by the thousand, so hand-packed.

Read are all entries that make the device do something, whoever made them. Left out is what the
kernel keeps for itself: multicast groups and failed lookups. An entry that does not do what ours
do (another UDP port or VNI, not permanent) reads with an impossible value, so it gets mended.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from meshnet.errors import KernelRefused
from meshnet.linux import rtnetlink as rt
from meshnet.linux.netlink import NLM_F_APPEND, NLM_F_CREATE, Netlink
from meshnet.model.addresses import Address
from meshnet.model.patched import Patched

NOWHERE = IPv4Address(0)
"""The VTEP an entry reads with that is not one of ours in form."""

GONE = (errno.ENOENT, errno.ENODEV, errno.ESRCH)


@dataclass(frozen=True, slots=True)
class Fdb:
    """What the FDBs of a namespace hold: the VXLAN device's, and (port index, MAC) of bridges."""

    vteps: Mapping[str, IPv4Address]
    flood: frozenset[IPv4Address]
    tied: frozenset[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Entries:
    """What there is by the thousand in a namespace."""

    fdb: Fdb
    neighbours: Mapping[Address, str]


Key = str | Address
"""What names an entry on a VXLAN device: a MAC in the FDB, an address among the neighbours."""

MOST_SINGLY = 256
"""Entries that are read one by one; where there are more, reading all is quicker."""


def read_entries(netlink: Netlink, vxlan: int) -> Entries:
    """Return FDB and neighbours of the VXLAN device with this index; 0 where there is none."""
    neighbours = read_neighbours(netlink, vxlan) if vxlan else {}
    return Entries(read_fdb(netlink, vxlan), neighbours)


def read_again(netlink: Netlink, vxlan: int, known: Entries, keys: Iterable[Key]) -> Entries:
    """Return what there is if all that has changed since `known` are the entries of these keys."""
    vteps: dict[str, IPv4Address | None] = {}
    neighbours: dict[Address, str | None] = {}
    for key in keys:
        if isinstance(key, str):
            found = _ask(netlink, rt.get_fdb(vxlan, key), f"read FDB entry {key}")
            vteps[key] = _vtep(found) if found else None
        else:
            found = _ask(netlink, rt.get_neighbour(vxlan, key), f"read neighbour {key}")
            neighbours[key] = _mac(found) if found else None
    fdb = replace(known.fdb, vteps=Patched(known.fdb.vteps, vteps)) if vteps else known.fdb
    return Entries(fdb, Patched(known.neighbours, neighbours) if neighbours else known.neighbours)


def _ask(netlink: Netlink, query: bytes, what: str) -> rt.Neighbour | None:
    try:
        bodies = netlink.ask(query, what)
    except KernelRefused as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return rt.parse_neighbour(bodies[0]) if bodies else None


def read_fdb(netlink: Netlink, vxlan: int) -> Fdb:
    """Return the FDB; `vxlan` is the index of the VXLAN device, 0 where there is none."""
    vteps: dict[str, IPv4Address] = {}
    flood: set[IPv4Address] = set()
    tied: set[tuple[int, str]] = set()
    for body in netlink.dump(rt.dump_fdb(), "dump FDB"):
        entry = rt.parse_neighbour(body)
        if entry.master:
            tied |= _tied(entry)
        elif entry.index != vxlan or not entry.flags & rt.NTF_SELF:
            continue
        elif entry.mac == rt.FLOOD_MAC:
            flood.add(_vtep(entry))
        else:
            vteps[entry.mac] = _vtep(entry)
    return Fdb(Patched(vteps, {}), frozenset(flood), frozenset(tied))


def read_tied(netlink: Netlink, port: int) -> set[tuple[int, str]]:
    """Return what bridges hold, that of one port at least."""
    tied: set[tuple[int, str]] = set()
    for body in netlink.dump(rt.dump_fdb(port), "dump FDB of a port"):
        tied |= _tied(rt.parse_neighbour(body))
    return tied


def _tied(entry: rt.Neighbour) -> set[tuple[int, str]]:
    """Return (port index, MAC) of an entry that is neither learned nor a bridge's own."""
    fixed = entry.state & rt.NUD_NOARP and not entry.state & rt.NUD_PERMANENT
    return {(entry.index, entry.mac)} if entry.master and fixed else set()


def _vtep(entry: rt.Neighbour) -> IPv4Address:
    ours = entry.plain and entry.state & rt.NUD_PERMANENT
    return entry.address if ours and isinstance(entry.address, IPv4Address) else NOWHERE


def read_neighbours(netlink: Netlink, vxlan: int) -> dict[Address, str]:
    """Return the neighbours of both families; one that is not permanent reads with MAC ''."""
    found: dict[Address, str] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in netlink.dump(rt.dump_neighbours(family, vxlan), "dump neighbours"):
            entry = rt.parse_neighbour(body)
            mac = _mac(entry)
            if entry.index == vxlan and entry.address is not None and mac is not None:
                found[entry.address] = mac
    return Patched(found, {})


def _mac(entry: rt.Neighbour) -> str | None:
    """Return what a neighbour reads with; None for what the kernel keeps for itself."""
    if entry.address is None or not entry.state & rt.NUD_VALID:
        return None
    if entry.state & rt.NUD_NOARP and _is_for_many(entry.address):
        return None
    return entry.mac if entry.state & rt.NUD_PERMANENT else ""


def _is_for_many(address: Address) -> bool:
    return address.is_multicast or address == IPv4Address("255.255.255.255")


def set_fdb(netlink: Netlink, vxlan: int, entries: Mapping[str, IPv4Address]) -> None:
    pairs = list(entries.items())
    messages = [rt.pack_fdb(vxlan, mac, vtep) for mac, vtep in pairs]
    netlink.request(messages, lambda i: "set FDB entry {} to {}".format(*pairs[i]))


def remove_fdb(netlink: Netlink, vxlan: int, macs: Iterable[str]) -> None:
    macs = list(macs)
    messages = [rt.pack_fdb(vxlan, mac, None) for mac in macs]
    netlink.request(messages, lambda i: f"remove FDB entry {macs[i]}", ignore=GONE)


def set_neighbours(netlink: Netlink, vxlan: int, entries: Mapping[Address, str]) -> None:
    pairs = list(entries.items())
    messages = [rt.pack_neighbour(vxlan, address, mac) for address, mac in pairs]
    netlink.request(messages, lambda i: "set neighbour {} to {}".format(*pairs[i]))


def remove_neighbours(netlink: Netlink, vxlan: int, addresses: Iterable[Address]) -> None:
    addresses = list(addresses)
    messages = [rt.pack_neighbour(vxlan, address, None) for address in addresses]
    netlink.request(messages, lambda i: f"remove neighbour {addresses[i]}", ignore=GONE)


def set_flood(netlink: Netlink, vxlan: int, vteps: frozenset[IPv4Address]) -> None:
    """Make these, and no others, get a copy of what goes to everybody."""
    have = read_fdb(netlink, vxlan).flood
    if NOWHERE in have:
        # Not of our form, so it cannot be named exactly: away with all of them.
        remove_fdb(netlink, vxlan, [rt.FLOOD_MAC])
        have = frozenset()
    more, less = sorted(vteps - have), sorted(have - vteps)
    flags = NLM_F_CREATE | NLM_F_APPEND
    netlink.request(
        [rt.pack_flood(vxlan, vtep, flags) for vtep in more],
        [f"flood to {vtep}" for vtep in more],
        ignore=(errno.EEXIST,),
    )
    netlink.request(
        [rt.pack_flood(vxlan, vtep, 0, remove=True) for vtep in less],
        [f"flood no more to {vtep}" for vtep in less],
        ignore=GONE,
    )
