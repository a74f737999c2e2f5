"""Shell. Set elements changed by netlink are those that nft lists."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from meshnet.errors import KernelRefused
from meshnet.linux import nft_elements
from meshnet.linux.netlink import Netlink
from meshnet.linux.nft import NETLINK_NETFILTER
from meshnet.linux.nft_elements import key_of
from meshnet.linux.source_guard import SourceGuard
from meshnet.plan.state import NFT_TABLE, Port
from tests.lab import Lab

pytestmark = pytest.mark.root

GATEWAYS = [ip_interface("10.0.0.1/16"), ip_interface("fd00::1/64")]


def port(number: int) -> Port:
    sources = {ip_address(f"10.0.0.{number}"), ip_address(f"fd00::{number:x}:0:0:ff")}
    mac = f"0a:00:00:00:00:{number:02x}"
    return Port("/x", 1, "eth0", mac, 1370, frozenset(), sources=frozenset(sources))


def name(number: int) -> str:
    return f"p0a00000000{number:02x}"


def test_what_netlink_changes_is_what_nft_lists(lab: Lab) -> None:
    host = lab.host("h1")
    home = os.open(f"/proc/{host.pid}/ns/net", os.O_RDONLY)
    try:
        with closing(SourceGuard(home)) as guard, closing(SourceGuard(home)) as other:
            guard.build(GATEWAYS, {})
            for number in range(2, 12):
                guard.allow(name(number), port(number))
            guard.forget(map(name, range(2, 8)))
            assert other.grants == guard.grants
            assert len(guard.grants) == 4
            assert other.is_whole(GATEWAYS)
            with pytest.raises(KernelRefused, match="ENOENT"):
                change(home, {"own4": [key_of('"p9" . 0a:00:00:00:00:09 . 10.9.9.9')]})
            assert other.is_whole(GATEWAYS), "all of a change or nothing"
    finally:
        os.close(home)


def change(home: int, deleted: nft_elements.Keys) -> None:
    with Netlink(NETLINK_NETFILTER, netns=home) as netlink:
        nft_elements.change(netlink, NFT_TABLE, deleted, {"here4": [b"\1\2\3\4"]})


def test_what_a_port_leaves_to_another_stays(lab: Lab) -> None:
    host = lab.host("h1")
    home = os.open(f"/proc/{host.pid}/ns/net", os.O_RDONLY)
    try:
        with closing(SourceGuard(home)) as guard, closing(SourceGuard(home)) as other:
            guard.build(GATEWAYS, {})
            guard.allow(name(2), port(2))
            guard.allow(name(3), replace(port(3), sources=port(2).sources))
            guard.forget([name(2)])
            assert other.grants == guard.grants
            assert other.is_whole(GATEWAYS), "the address is here as before"
            guard.forget([name(3), "nobody"])
            assert other.grants == guard.grants == {}
            assert other.is_whole(GATEWAYS)
    finally:
        os.close(home)
