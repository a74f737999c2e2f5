"""Pure. Two checks of the doctor: what the tunnel stands on, and the routes that lead into it.

    route      10.213.0.0/16 ─▶ meshnet0 ─┐     packets for the mesh enter the tunnel
    underlay             eth0 ◀───────────┘     and leave by a link of the host, to the peer

Whoever lost a cable, an address or a default route sees every peer silent, and so does a host whose
own network has the addresses of the mesh: its packets are answered into the tunnel.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshnet.model.addresses import Interface, Prefix
from meshnet.plan.drift import drift
from meshnet.plan.evidence import Evidence
from meshnet.plan.findings import mend, ok, wrong
from meshnet.wire.local import Finding


def check_underlay(evidence: Evidence) -> Finding | None:
    """This host has an address outside the mesh, a way to the peer's endpoint, and room for the
    neighbours it meets there."""
    if evidence.underlay is None:
        return None
    if not evidence.underlay:
        return wrong(
            "underlay",
            "this host has no address on any link that is up, but for those of the mesh",
            "Bring a link up and give it an address: see `ip addr`.",
        )
    inside = [_within(evidence, address) for _, address in evidence.underlay]
    if all(inside):
        link, address = evidence.underlay[0]
        return wrong(
            "underlay",
            f"{address} on {link} lies in {inside[0]}, which is the mesh's own:"
            " nobody can answer there",
            "Give this host another address, or make the mesh anew with other prefixes"
            " (meshnet coordinator init --mesh-prefix).",
        )
    if evidence.endpoint and not evidence.endpoint[1]:
        return wrong(
            "underlay",
            f"there is no route to {evidence.endpoint[0]}, where the peer is",
            "Give this host one: see `ip route`.",
        )
    if evidence.turned_away:
        return wrong(
            "underlay",
            "the kernel's table of neighbours is full: packets to other hosts on the links of this"
            " one are dropped",
            "Make it larger: sysctl -w net.ipv4.neigh.default.gc_thresh3=8192"
            " net.ipv6.neigh.default.gc_thresh3=8192.",
        )
    usable = zip(evidence.underlay, inside, strict=True)
    named = [f"{address.ip} on {link}" for (link, address), prefix in usable if prefix is None]
    return ok("underlay", ", ".join(named[:4]))


def _within(evidence: Evidence, address: Interface) -> Prefix | None:
    """Return the prefix of the mesh's own that an address of the host lies in."""
    return next((prefix for prefix in _own_prefixes(evidence) if address.ip in prefix), None)


def _own_prefixes(evidence: Evidence) -> Iterator[Prefix]:
    mesh = evidence.view.statements.mesh
    if mesh is not None:
        yield from (mesh.prefix4, mesh.prefix6)
    for network in evidence.view.networks.values():
        yield from network.prefixes


def check_route(evidence: Evidence) -> Finding | None:
    """The mesh's prefixes are routed into the tunnel, a network's to the host's port on it."""
    if evidence.me is None:
        return None
    missing = drift(evidence, "route")
    if missing:
        return wrong("route", "; ".join(missing), mend(evidence))
    for way in evidence.ways:
        if way.link != way.wanted:
            return wrong(
                "route",
                f"packets to {way.address} leave by {way.link or 'no link'} and not by"
                f" {way.wanted}: a rule or a route of another program comes first",
                f"Look at `ip route get {way.address}` and `ip rule`, and take away what is not"
                " ours.",
            )
    return ok("route", "the mesh's prefixes lead into the tunnel")
