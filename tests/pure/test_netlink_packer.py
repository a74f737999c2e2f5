"""Our rtnetlink packer against pyroute2's encoder, byte by byte, and our parsers fed junk.

pyroute2 wrote none of what is checked here and knows none of our code, so where both agree on the
bytes, both would have to be wrong in the same way.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Sequence
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
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from meshnet.errors import KernelRefused
from meshnet.linux import links, netlink
from meshnet.linux import rtnetlink as rt
from meshnet.linux.namespace import Namespace
from meshnet.model.addresses import Address, Interface, Prefix
from meshnet.plan.state import Segment

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


class Sent(netlink.Netlink):
    """A socket without a kernel: keeps what it is to send."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def request(self, messages: Sequence[bytes], *_: object, **__: object) -> None:
        self.messages += messages


def sent(act: Callable[[Namespace], None]) -> bytes:
    """Return the one message that `act` sends."""
    here = Sent()
    act(Namespace(0, here, "here"))
    (one,) = here.messages
    return one


def linked(how: int, /, *attrs: tuple[str, object], **fields: int) -> bytes:
    return encoded(ifinfmsg(), 16, how, *attrs, **fields)


NEW = rt.NLM_F_CREATE | rt.NLM_F_EXCL
mtus = st.integers(1, 65535)
descriptors = st.integers(0, 2**20)


@given(st.integers(1, 2**24 - 1), mtus, addresses4, macs, descriptors)
def test_a_vxlan_device_is_made_as_pyroute2_makes_it(
    vni: int, mtu: int, local: IPv4Address, mac: str, target: int
) -> None:
    segment = Segment(vni, mtu, local, mac, "", frozenset())
    data = [
        ("IFLA_VXLAN_ID", vni),
        ("IFLA_VXLAN_LOCAL", str(local)),
        ("IFLA_VXLAN_LEARNING", 0),
        ("IFLA_VXLAN_AGEING", 0),
        ("IFLA_VXLAN_PROXY", 1),
        ("IFLA_VXLAN_PORT", 14789),
    ]
    info = {"attrs": [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": data})]}

    made = sent(lambda home: links.make_vxlan(home, target, segment))

    assert made == linked(
        NEW,
        ("IFLA_IFNAME", "vx0"),
        ("IFLA_ADDRESS", mac),
        ("IFLA_MTU", mtu),
        ("IFLA_NET_NS_FD", target),
        ("IFLA_LINKINFO", info),
    )


@given(macs, mtus)
def test_a_bridge_is_made_as_pyroute2_makes_it(mac: str, mtu: int) -> None:
    data = {"attrs": [("IFLA_BR_STP_STATE", 0), ("IFLA_BR_MCAST_SNOOPING", 0)]}
    info = {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", data)]}

    made = sent(lambda space: links.make_bridge(space, "br0", mac, mtu))

    assert made == linked(
        NEW,
        ("IFLA_IFNAME", "br0"),
        ("IFLA_ADDRESS", mac),
        ("IFLA_MTU", mtu),
        ("IFLA_LINKINFO", info),
    )


@given(macs, mtus, descriptors)
def test_a_veth_pair_is_made_as_pyroute2_makes_it(mac: str, mtu: int, target: int) -> None:
    peer = [
        ("IFLA_IFNAME", "mesh0"),
        ("IFLA_ADDRESS", mac),
        ("IFLA_MTU", mtu),
        ("IFLA_NET_NS_FD", target),
    ]
    data = {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]}
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}

    made = sent(lambda space: links.make_veth(space, "p1", target, "mesh0", mac, mtu))

    named = ("IFLA_IFNAME", "p1"), ("IFLA_MTU", mtu)
    assert made == linked(NEW, *named, ("IFLA_LINKINFO", info))


@given(indexes, macs, mtus, indexes)
def test_a_link_is_set_as_pyroute2_sets_it(index: int, mac: str, mtu: int, master: int) -> None:
    full = sent(
        lambda space: links.set_link(
            space,
            index,
            "x",
            up=True,
            name="x",
            mac=mac,
            mtu=mtu,
            master=master,
            alias="ours",
            group=109,
        )
    )
    down = sent(lambda space: links.set_link(space, index, "x", up=False))

    assert full == linked(
        0,
        ("IFLA_IFNAME", "x"),
        ("IFLA_ADDRESS", mac),
        ("IFLA_MTU", mtu),
        ("IFLA_MASTER", master),
        ("IFLA_IFALIAS", "ours"),
        ("IFLA_GROUP", 109),
        index=index,
        flags=1,
        change=1,
    )
    assert down == linked(0, index=index, change=1)


@given(indexes, st.booleans(), st.booleans())
def test_a_bridge_port_is_set_as_pyroute2_sets_it(index: int, flood: bool, locked: bool) -> None:
    data = {
        "attrs": [("IFLA_BRPORT_UNICAST_FLOOD", int(flood)), ("IFLA_BRPORT_LOCKED", int(locked))]
    }
    info = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", data)]}
    flags = {links.PORT_UNICAST_FLOOD: flood, links.PORT_LOCKED: locked}

    made = sent(lambda space: links.set_port(space, index, "x", flags))

    assert made == linked(0, ("IFLA_LINKINFO", info), index=index)


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
