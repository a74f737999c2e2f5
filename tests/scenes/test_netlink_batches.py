"""Batches of entries into a real kernel: one that is refused is named, the others get in."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from meshnet.errors import KernelRefused
from meshnet.linux import entries
from meshnet.linux import rtnetlink as rt
from meshnet.linux.netlink import Netlink
from tests.lab.kernel_hosts import own_machine, run
from tests.lab.wireguard_hosts import needs_root

pytestmark = pytest.mark.root

VTEP = IPv4Address("10.213.0.2")


@pytest.fixture
def vxlan() -> Iterator[tuple[Netlink, int]]:
    """A socket and the index of a VXLAN device, in a namespace of their own."""
    needs_root()
    with own_machine():
        run("ip link add vx0 type vxlan id 7 local 10.213.0.1 dstport 14789 nolearning proxy")
        with Netlink() as netlink:
            (body,) = netlink.ask(rt.get_link("vx0"), "look up vx0")
            yield netlink, rt.parse_link(body).index


def test_the_entry_that_is_refused_is_named_and_all_others_get_in(
    vxlan: tuple[Netlink, int],
) -> None:
    netlink, index = vxlan
    good = {f"0a:00:00:00:{i // 256:02x}:{i % 256:02x}": VTEP for i in range(300)}
    multicast = "01:00:5e:00:00:01"
    mixed = dict([*list(good.items())[:150], (multicast, VTEP), *list(good.items())[150:]])

    with pytest.raises(KernelRefused) as refusal:
        entries.set_fdb(netlink, index, mixed)

    assert refusal.value.errno == errno.EOPNOTSUPP
    assert refusal.value.message.startswith(f"set FDB entry {multicast} to {VTEP}: ")
    assert entries.read_fdb(netlink, index).vteps == good


def test_a_thousand_refusals_are_counted(vxlan: tuple[Netlink, int]) -> None:
    netlink, index = vxlan
    bad = {f"01:00:5e:00:{i // 256:02x}:{i % 256:02x}": VTEP for i in range(1000)}

    with pytest.raises(KernelRefused, match=r"01:00:5e:00:00:00 to .* \(and 999 more\)"):
        entries.set_fdb(netlink, index, bad)

    assert entries.read_fdb(netlink, index).vteps == {}
