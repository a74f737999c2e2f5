"""Shell. Set elements changed by netlink are those that nft lists."""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_interface

import pytest

from meshnet.errors import KernelRefused
from meshnet.linux import nft_elements
from meshnet.linux.source_guard import SourceGuard
from meshnet.plan.state import NFT_TABLE, Port
from tests.lab import Lab

pytestmark = pytest.mark.root

GATEWAYS = [ip_interface("10.0.0.1/16"), ip_interface("fd00::1/64")]


def port(number: int) -> Port:
    sources = {ip_address(f"10.0.0.{number}"), ip_address(f"fd00::{number:x}:0:0:ff")}
    mac = f"0a:00:00:00:00:{number:02x}"
    return Port("/x", 1, "eth0", mac, 1370, frozenset(), sources=frozenset(sources))


def test_what_netlink_changes_is_what_nft_lists(lab: Lab) -> None:
    host = lab.host("h1")
    home = os.open(f"/proc/{host.pid}/ns/net", os.O_RDONLY)
    try:
        guard = SourceGuard(home)
        guard.build(GATEWAYS, {})
        for number in range(2, 12):
            guard.allow(f"p0a00000000{number:02x}", port(number))
        for number in range(2, 8):
            guard.forget(f"p0a00000000{number:02x}")
        afresh = SourceGuard(home)
        assert afresh.grants == guard.grants
        assert len(guard.grants) == 4
        assert afresh.is_whole(GATEWAYS)
        with pytest.raises(KernelRefused, match="ENOENT"):
            keys = [nft_elements.key_of('"p9" . 0a:00:00:00:00:09 . 10.9.9.9')]
            nft_elements.change(home, NFT_TABLE, {"own4": keys}, {"here4": [b"\1\2\3\4"]})
        assert SourceGuard(home).is_whole(GATEWAYS), "all of a change or nothing"
    finally:
        os.close(home)
