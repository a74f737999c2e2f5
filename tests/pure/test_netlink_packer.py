"""Our rtnetlink packer against pyroute2's encoder, byte by byte, and our parsers fed junk.

pyroute2 wrote none of what is checked here and knows none of our code, so where both agree on the
bytes, both would have to be wrong in the same way.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_network,
)
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from meshnet.errors import KernelRefused
from meshnet.linux import netlink
from meshnet.linux import rtnetlink as rt
from meshnet.model.addresses import Address, Interface, Prefix

HEADER = 16

indexes = st.integers(1, 2**31 - 1)
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
addresses4 = st.integers(0, 2**32 - 1).map(IPv4Address)
addresses6 = st.integers(0, 2**128 - 1).map(IPv6Address)
addresses = st.one_of(addresses4, addresses6)
creations = st.sampled_from([rt.NLM_F_CREATE, rt.REPLACE, 0])


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    address = draw(addresses)
    length = draw(st.integers(1, address.max_prefixlen))
    return ip_network(f"{address}/{length}", strict=False)


@st.composite
def interfaces(draw: st.DrawFn) -> Interface:
    address = draw(addresses)
    length = draw(st.integers(0, address.max_prefixlen))
    if isinstance(address, IPv4Address):
        return IPv4Interface(f"{address}/{length}")
    return IPv6Interface(f"{address}/{length}")


def encoded(
    message: Any, kind: int, how: int, /, *attrs: tuple[str, object], **fields: int
) -> bytes:
    """Return what pyroute2 makes of a message."""
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attrs)
    message["header"].update(type=kind, flags=how, sequence_number=0, pid=0)
    message.encode()
    return bytes(message.data)


def family(value: Address | Interface | Prefix) -> int:
    return 2 if value.version == 4 else 10


@given(indexes, macs, addresses4)
def test_an_fdb_entry_is_packed_as_pyroute2_packs_it(
    index: int, mac: str, vtep: IPv4Address
) -> None:
    state = {"family": 7, "ifindex": index, "state": 0xC0, "flags": 2}
    key = ("NDA_LLADDR", mac)

    added = encoded(ndmsg(), 28, rt.REPLACE, key, ("NDA_DST", str(vtep)), **state)
    removed = encoded(ndmsg(), 29, 0, key, **state)

    assert rt.pack_fdb(index, mac, vtep) == added
    assert rt.pack_fdb(index, mac, None) == removed


@given(indexes, addresses4, creations)
def test_a_flood_entry_is_packed_as_pyroute2_packs_it(
    index: int, vtep: IPv4Address, how: int
) -> None:
    fields = {"family": 7, "ifindex": index, "state": 0xC0, "flags": 2}
    attrs = ("NDA_LLADDR", rt.FLOOD_MAC), ("NDA_DST", str(vtep))

    assert rt.pack_flood(index, vtep, how) == encoded(ndmsg(), 28, how, *attrs, **fields)
    removal = rt.pack_flood(index, vtep, how, remove=True)
    assert removal == encoded(ndmsg(), 29, 0, *attrs, **fields)


@given(indexes, macs)
def test_a_mac_is_tied_to_a_bridge_port_as_pyroute2_does_it(index: int, mac: str) -> None:
    key = ("NDA_LLADDR", mac)

    tied = encoded(ndmsg(), 28, rt.REPLACE, key, family=7, ifindex=index, state=0x40, flags=4)
    freed = encoded(ndmsg(), 29, 0, key, family=7, ifindex=index, flags=4)

    assert rt.pack_bridge_fdb(index, mac) == tied
    assert rt.delete_bridge_fdb(index, mac) == freed


@given(indexes, addresses, macs)
def test_a_neighbour_is_packed_as_pyroute2_packs_it(index: int, address: Address, mac: str) -> None:
    fields = {"family": family(address), "ifindex": index, "state": 0x80}
    key = ("NDA_DST", str(address))

    added = encoded(ndmsg(), 28, rt.REPLACE, key, ("NDA_LLADDR", mac), **fields)
    removed = encoded(ndmsg(), 29, 0, key, **fields)

    assert rt.pack_neighbour(index, address, mac) == added
    assert rt.pack_neighbour(index, address, None) == removed


@given(indexes, prefixes())
def test_a_route_is_packed_as_pyroute2_packs_it(index: int, prefix: Prefix) -> None:
    fields = {
        "family": family(prefix),
        "dst_len": prefix.prefixlen,
        "table": 254,
        "proto": 109,
        "type": 1,
    }
    attrs = ("RTA_DST", str(prefix.network_address)), ("RTA_OIF", index)
    scope = 253 if prefix.version == 4 else 0

    added = encoded(rtmsg(), 24, 0x600, *attrs, scope=scope, **fields)
    removed = encoded(rtmsg(), 25, 0, *attrs, scope=255, **fields)

    assert rt.pack_route(index, prefix) == added
    assert rt.pack_route(index, prefix, remove=True) == removed


@given(indexes, prefixes(), st.data())
def test_a_route_by_a_gateway_is_packed_as_pyroute2_packs_it(
    index: int, prefix: Prefix, data: st.DataObject
) -> None:
    gateway = data.draw(addresses4 if prefix.version == 4 else addresses6)
    attrs = (
        ("RTA_DST", str(prefix.network_address)),
        ("RTA_GATEWAY", str(gateway)),
        ("RTA_OIF", index),
    )

    added = encoded(
        rtmsg(),
        24,
        0x600,
        *attrs,
        family=family(prefix),
        dst_len=prefix.prefixlen,
        table=254,
        proto=109,
        type=1,
    )

    assert rt.pack_route(index, prefix, gateway) == added


@given(indexes, interfaces())
def test_an_address_is_packed_as_pyroute2_packs_it(index: int, address: Interface) -> None:
    fields = {
        "family": family(address),
        "prefixlen": address.network.prefixlen,
        "flags": 2,
        "index": index,
    }
    attrs = ("IFA_LOCAL", str(address.ip)), ("IFA_ADDRESS", str(address.ip))

    assert rt.pack_address(index, address) == encoded(ifaddrmsg(), 20, rt.REPLACE, *attrs, **fields)
    removal = rt.pack_address(index, address, remove=True)
    assert removal == encoded(ifaddrmsg(), 21, 0, *attrs, **fields)


@given(indexes, macs, addresses4)
def test_what_was_packed_is_parsed_back(index: int, mac: str, vtep: IPv4Address) -> None:
    entry = rt.parse_neighbour(rt.pack_fdb(index, mac, vtep)[HEADER:])

    assert entry == rt.Neighbour(index, 0xC0, 2, mac, vtep, master=0, plain=True)


@given(indexes, prefixes(), st.data())
def test_a_route_that_was_packed_is_parsed_back(
    index: int, prefix: Prefix, data: st.DataObject
) -> None:
    gateway = data.draw(st.none() | (addresses4 if prefix.version == 4 else addresses6))

    route = rt.parse_route(rt.pack_route(index, prefix, gateway)[HEADER:])

    assert route == rt.Route(prefix, index, gateway, protocol=109, table=254)
    assert route.is_ours


@given(indexes, interfaces())
def test_an_address_that_was_packed_is_parsed_back(index: int, address: Interface) -> None:
    assert rt.parse_address(rt.pack_address(index, address)[HEADER:]) == (index, address)


PARSERS: list[Callable[[bytes], object]] = [
    rt.parse_link,
    rt.parse_address,
    rt.parse_neighbour,
    rt.parse_route,
    rt.header_of_neighbour,
    rt.protocol_of_route,
    netlink.attributes,
    netlink.split_messages,
]

headers = st.sampled_from([8, 12, 16]).flatmap(lambda size: st.binary(min_size=size, max_size=size))
attribute = st.builds(
    netlink.attribute, st.integers(0, 60), st.binary(max_size=20) | st.just(b"vxlan\0")
)
"""Attributes of the types that mean something, whose data does not."""
bodies = st.binary(max_size=200) | st.builds(
    lambda header, parts, tail: header + b"".join(parts) + tail,
    headers,
    st.lists(attribute, max_size=8),
    st.binary(max_size=7),
)


@pytest.mark.parametrize("parse", PARSERS)
@given(bodies)
@example(b"")
@example(b"\0" * 16 + struct.pack("=HH", 3, 1))
@example(b"\0" * 16 + struct.pack("=HH", 0xFFFF, 1))
def test_a_parser_raises_nothing_but_our_error_on_any_bytes(
    parse: Callable[[bytes], object], body: bytes
) -> None:
    try:
        parse(body)
    except KernelRefused as error:
        assert error.errno == errno.EBADMSG


@given(st.binary(max_size=64), st.integers(0, 0xFFFF), st.sampled_from([2, 3]))
def test_a_verdict_is_read_or_refused_whatever_follows_it(
    rest: bytes, flags: int, kind: int
) -> None:
    try:
        code, words = netlink._verdict(kind, flags, struct.pack("=i", -errno.EEXIST) + rest)
    except KernelRefused as error:
        assert error.errno == errno.EBADMSG
    else:
        assert code == errno.EEXIST and isinstance(words, str)


def test_messages_are_cut_into_batches_by_number_and_by_bytes() -> None:
    small, large = [b"x" * 40] * 300, [b"x" * 40_000] * 3

    assert [len(batch) for _, batch in netlink._batches(small)] == [128, 128, 44]
    assert [(first, len(batch)) for first, batch in netlink._batches(large)] == [
        (0, 1),
        (1, 1),
        (2, 1),
    ]
    assert list(netlink._batches([])) == []
