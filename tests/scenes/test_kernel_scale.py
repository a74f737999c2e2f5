"""The kernel port with 1,000 peers and 10,000 attachments in five networks: all of it at once, and
then one thing of it. See tests/lab/kernel_wishes.py for the hosts.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from meshnet.errors import Unavailable
from meshnet.linux.backend import pick_backend
from meshnet.model.keys import PublicKey
from meshnet.plan.diff import plan
from meshnet.plan.state import Host, Peer, Segment
from tests.lab.kernel_hosts import Machine, RealHost
from tests.lab.kernel_wishes import EMPTY, TUNNEL_STATE, interfaces, machine, mend

__all__ = ["machine"]

PEERS, NETWORKS, ATTACHMENTS = 1000, 5, 2000
VTEPS = int(IPv4Address("10.213.1.0"))


def peers() -> dict[PublicKey, Peer]:
    found = {}
    for number in range(PEERS):
        key = PublicKey((number + 1).to_bytes(2, "big").ljust(32, b"k"))
        four, six = IPv4Address(VTEPS + number), IPv6Address(f"fd00:2::{number + 16:x}")
        found[key] = Peer(frozenset({ip_network(four), ip_network(six)}))
    return found


def network(number: int) -> Segment:
    """Return a network with two attachments on every peer, each with an address of each family."""
    fdb, neighbours = {}, {}
    for slot in range(ATTACHMENTS):
        mac = f"0a:00:{number:02x}:00:{slot // 256:02x}:{slot % 256:02x}"
        fdb[mac] = IPv4Address(VTEPS + slot % PEERS)
        neighbours[IPv4Address(f"10.{220 + number}.{16 + slot // 250}.{slot % 250 + 1}")] = mac
        neighbours[IPv6Address(f"fd00:{10 + number}::{slot + 256:x}")] = mac
    gateways = interfaces(f"10.{220 + number}.0.1/16 fd00:{10 + number}::1/64")
    return replace(EMPTY, vni=500 + number, gateways=gateways, fdb=fdb, neighbours=neighbours)


@pytest.fixture
def full(machine: Machine) -> Host:
    if isinstance(machine, RealHost):
        try:
            assert pick_backend().backend
        except Unavailable as error:
            pytest.skip(f"NOT TESTED: {error.message}; {error.hint}")
    tunnel = replace(TUNNEL_STATE, peers=peers())
    return Host(tunnel=tunnel, segments={f"net{n}": network(n) for n in range(NETWORKS)})


def test_all_of_it_reads_as_it_was_set_and_one_change_is_one_operation(
    machine: Machine, full: Host
) -> None:
    mend(machine, full)
    assert machine.kernel.read() == full

    segment = full.segments["net3"]
    moved = {**segment.fdb, "0a:00:03:00:00:07": IPv4Address(VTEPS)}
    wanted = replace(full, segments={**full.segments, "net3": replace(segment, fdb=moved)})
    (operation,) = plan(wanted, machine.kernel.read())
    machine.kernel.apply(operation)

    assert str(operation) == "set 1 FDB entries of net3: 0a:00:03:00:00:07→10.213.1.0"
    assert machine.kernel.read() == wanted
