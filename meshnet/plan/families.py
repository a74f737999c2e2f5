"""Pure. What is left of a wish on a host whose kernel has no IPv6 (booted with `ipv6.disable=1`).

Context: such kernels are common, and refuse every IPv6 address, route and neighbour, for good.
Choice: the wish is made as everywhere, and what it has of IPv6 is dropped at the end, in one place.
Price: others know an IPv6 mesh address of such a node that nobody answers at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from meshnet.model.addresses import Address, Interface, Prefix
from meshnet.plan.state import Host, Port, Segment, Tunnel

One = TypeVar("One", Address, Interface, Prefix)
Value = TypeVar("Value")


def only_ipv4(want: Host) -> Host:
    """Return the wish without what an IPv4 kernel cannot have."""
    segments = {name: _segment(segment) for name, segment in want.segments.items()}
    return replace(want, tunnel=want.tunnel and _tunnel(want.tunnel), segments=segments)


def _tunnel(want: Tunnel) -> Tunnel:
    return replace(want, addresses=_four(want.addresses), routes=_keys(want.routes))


def _segment(want: Segment) -> Segment:
    return replace(
        want,
        gateways=_four(want.gateways),
        neighbours=_keys(want.neighbours),
        ports={name: _port(port) for name, port in want.ports.items()},
    )


def _port(want: Port) -> Port:
    return replace(
        want,
        addresses=_four(want.addresses),
        routes=_four(want.routes),
        gateways=_four(want.gateways),
        sources=_four(want.sources),
    )


def _four(items: Iterable[One]) -> frozenset[One]:
    return frozenset(item for item in items if item.version == 4)


def _keys(mapping: Mapping[One, Value]) -> dict[One, Value]:
    return {key: value for key, value in mapping.items() if key.version == 4}
