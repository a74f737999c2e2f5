"""Shell. What the contract of the kernel port wishes for, and the hosts it is wished from.

Each real scene runs in a network and a mount namespace of its own. What is wanted is compared with
what is read, whole; drift is made by `ip`, `bridge` and `nft`, and mended by the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network

import pytest

from meshnet.model.addresses import Interface, Prefix
from meshnet.model.keys import PrivateKey
from meshnet.plan.diff import plan
from meshnet.plan.state import HOST, Guard, Host, Peer, Port, Segment, Tunnel
from tests.lab.kernel_hosts import TUNNEL, FakeHost, Machine, RealHost, own_machine
from tests.lab.waiting import wait_until
from tests.lab.wireguard_hosts import needs_root

NET = "appnet"
PORT, HOST_PORT = "p0a0000000101", "p0a0000000102"
MAC, OTHER_MAC, NEW_MAC = "0a:00:00:00:00:02", "0a:00:00:00:00:03", "0a:00:00:00:00:99"
BEN, CY = IPv4Address("10.213.0.2"), IPv4Address("10.213.0.3")
ADDRESS4, ADDRESS6 = ip_address("10.214.0.20"), ip_address("fd00:1::20")
LIMIT_SECONDS = 10.0


def interfaces(text: str) -> frozenset[Interface]:
    return frozenset(ip_interface(word) for word in text.split())


def prefixes(text: str) -> frozenset[Prefix]:
    return frozenset(ip_network(word) for word in text.split())


EMPTY = Segment(
    vni=77,
    mtu=1370,
    local=IPv4Address("10.213.0.1"),
    vtep_mac="02:00:00:00:00:01",
    gateway_mac="0e:00:00:00:00:01",
    gateways=interfaces("10.214.0.1/16 fd00:1::1/64"),
)
FILLED = replace(
    EMPTY,
    fdb={MAC: BEN, OTHER_MAC: CY},
    neighbours={ADDRESS4: MAC, ADDRESS6: MAC, ip_address("10.214.0.30"): OTHER_MAC},
)
ON_HOST = Port(
    netns=HOST,
    inode=0,
    interface="mesh-appnet",
    mac="0a:00:00:00:01:02",
    mtu=1370,
    addresses=interfaces("10.214.0.6/16 fd00:1::6/64"),
    sources=frozenset({ip_address("10.214.0.6"), ip_address("fd00:1::6")}),
)
GUARD = Guard(
    TUNNEL,
    prefixes("10.213.0.0/16 fd00:2::/48"),
    frozenset({14789}),
    prefixes("10.214.0.0/16 fd00:1::/64"),
    51820,
)
TUNNEL_STATE = Tunnel(
    name=TUNNEL,
    private_key=PrivateKey.from_random(b"kernel contract".ljust(32, b".")),
    listen_port=53911,
    mtu=1420,
    addresses=interfaces("10.213.0.1/32 fd00:2::1/128"),
    routes=dict.fromkeys(prefixes("10.213.0.0/16 fd00:2::/48"), 0)
    | dict.fromkeys(prefixes("10.213.0.2/32 fd00:2::2/128"), 1392),
    peers={
        PrivateKey.from_random(b"ben".ljust(32, b".")).public: Peer(
            prefixes("10.213.0.2/32 fd00:2::2/128"), keepalive=25
        )
    },
)


@pytest.fixture(
    params=[
        "fake",
        pytest.param("real", marks=pytest.mark.root),
        pytest.param("WireGuard in the kernel", marks=[pytest.mark.root, pytest.mark.kernel]),
    ]
)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if request.param == "fake":
        yield FakeHost()
        return
    needs_root()
    with own_machine():
        real = RealHost()
        assert request.param == "real" or real.kernel.backend == "kernel"
        try:
            yield real
        finally:
            real.close()


def read(machine: Machine, network: str = NET) -> Segment:
    return machine.kernel.read([network], tunnel=False).segments[network]


def mend(machine: Machine, want: Host, *, remove: bool = True) -> list[str]:
    """Do what the plan says; return the kinds of what was done. A second look must find nothing."""
    done = plan(want, machine.kernel.read(), remove=remove)
    for operation in done:
        machine.kernel.apply(operation)
    left = plan(want, machine.kernel.read(), remove=remove)
    assert not left, [str(one) for one in left]
    return [type(one).__name__ for one in done]


def container(machine: Machine, name: str = "c1", number: int = 5) -> Port:
    """Start a container; return the port it is to have."""
    path, inode = machine.start_container(name)
    return Port(
        netns=path,
        inode=inode,
        interface="mesh0",
        mac=f"0a:00:00:00:01:{number:02x}",
        mtu=1370,
        addresses=interfaces(f"10.214.0.{number}/16 fd00:1::{number}/64"),
        sources=frozenset({ip_address(f"10.214.0.{number}"), ip_address(f"fd00:1::{number}")}),
    )


def one(segment: Segment, network: str = NET) -> Host:
    return Host(segments={network: segment})


def wait_for(look: Callable[[], object], wanted: object) -> None:
    """Wait until what is looked at is what is wanted."""
    wait_until(lambda: look() == wanted, LIMIT_SECONDS, lambda: f"{look()} becomes {wanted}")
