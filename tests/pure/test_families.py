"""Pure. On a kernel without IPv6 nothing of IPv6 is wished for, and nothing else is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network

from meshnet.model.keys import PrivateKey
from meshnet.plan.diff import plan
from meshnet.plan.families import only_ipv4
from meshnet.plan.operations import ChangePeers, SetGuard
from meshnet.plan.state import Guard, Host, Peer, Port, Segment, Tunnel

OWN = frozenset({ip_interface("10.214.0.1/16"), ip_interface("fd00:1::1/64")})
BOTH = frozenset({ip_address("10.214.0.1"), ip_address("fd00:1::1")})
PREFIXES = frozenset({ip_network("10.213.0.0/16"), ip_network("fd00:2::/48")})
MAC = "0a:00:00:00:00:02"
PORT = Port("/proc/7/ns/net", 7, "mesh0", MAC, 1390, OWN, PREFIXES, BOTH, BOTH)
SEGMENT = Segment(
    vni=1000,
    mtu=1390,
    local=IPv4Address("10.213.0.1"),
    vtep_mac="02:00:00:00:00:01",
    gateway_mac="0e:00:00:00:00:01",
    gateways=OWN,
    fdb={MAC: IPv4Address("10.213.0.2")},
    neighbours=dict.fromkeys(BOTH, MAC),
    ports={"p0a": PORT},
    flood=frozenset({IPv4Address("10.213.0.2")}),
)
KEY = PrivateKey(bytes([7]) * 32)
TUNNEL = Tunnel(
    "meshnet0", KEY, 1, 1420, OWN, dict.fromkeys(PREFIXES, 0), {KEY.public: Peer(PREFIXES)}, 1
)
WISH = Host(TUNNEL, Guard("meshnet0", PREFIXES, frozenset({14789})), {"default": SEGMENT})


def parts(value: object) -> Iterator[object]:
    """Yield a value and all that is in it."""
    yield value
    if is_dataclass(value):
        for field in fields(value):
            yield from parts(getattr(value, field.name))
    elif isinstance(value, dict):
        for pair in value.items():
            yield from (part for item in pair for part in parts(item))
    elif isinstance(value, frozenset | tuple):
        yield from (part for item in value for part in parts(item))


def sixes(value: object) -> list[object]:
    return [part for part in parts(value) if getattr(part, "version", 4) == 6]


def test_no_operation_that_an_ipv4_kernel_refuses_has_ipv6_in_it() -> None:
    operations = plan(only_ipv4(WISH), Host())
    kinds = {type(one) for one in operations if sixes(one)}
    assert kinds == {ChangePeers, SetGuard}
    assert kinds < {type(one) for one in plan(WISH, Host()) if sixes(one)}


def test_all_that_is_not_ipv6_is_wished_for_as_before() -> None:
    """And the guard and the peers' allowed IPs are: what they say binds no address of ours."""
    four = only_ipv4(WISH)
    assert sorted(map(str, _fours(four))) == sorted(map(str, _fours(WISH)))
    assert four.guard == WISH.guard
    assert only_ipv4(four) == four


def _fours(value: object) -> list[object]:
    return [part for part in parts(value) if getattr(part, "version", 0) == 4]
