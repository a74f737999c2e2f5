"""Pure. The kinds of packets that must pass a host's filters for the mesh to work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshnet.model.addresses import Address, Endpoint
from meshnet.plan.firewall import Packet, Value
from meshnet.plan.state import VXLAN_PORT

AGENT_PORT = 7420


def host_packets(
    port: int, tunnel: str, peers: Iterable[tuple[Endpoint, Address]], versions: Iterable[int]
) -> Iterator[Packet]:
    """Yield what passes the host's own hooks.

    `peers` are (endpoint, mesh address) of those in question; without any, WireGuard's packets of
    the IP `versions` are those of anybody.
    """
    listed = list(peers)
    for endpoint, _ in listed:
        yield from _wireguard(port, tunnel, endpoint.address.version, endpoint)
    if not listed:
        for version in versions:
            yield from _wireguard(port, tunnel, version, None)
    addresses: list[Address | None] = [address for _, address in listed]
    for address in addresses or [None]:
        for name, number in (("VXLAN", VXLAN_PORT), ("the agent's", AGENT_PORT)):
            yield from _inside(name, number, tunnel, address)


def _wireguard(port: int, tunnel: str, version: int, peer: Endpoint | None) -> Iterator[Packet]:
    family = "ip" if version == 4 else "ip6"
    elsewhere = frozenset[Value]({tunnel, "lo"})
    come: dict[str, Value] = {"meta l4proto": "udp", "udp dport": port}
    leave: dict[str, Value] = {"meta l4proto": "udp", "udp sport": port}
    if peer is not None:
        come |= {"udp sport": peer.port, f"{family} saddr": str(peer.address)}
        leave |= {"udp dport": peer.port, f"{family} daddr": str(peer.address)}
    yield Packet(
        "WireGuard's packets that come in",
        "input",
        version,
        come,
        {"meta iifname": elsewhere},
        tested=True,
    )
    yield Packet(
        "WireGuard's packets that go out",
        "output",
        version,
        leave,
        {"meta oifname": elsewhere},
        tested=True,
    )


def _inside(name: str, port: int, tunnel: str, peer: Address | None) -> Iterator[Packet]:
    udp: dict[str, Value] = {"meta l4proto": "udp", "udp dport": port}
    if port == VXLAN_PORT:
        # Both directions go to this port from another, so neither is the reply of the other.
        udp["ct state"] = "new"
    come: dict[str, Value] = {**udp, "meta iifname": tunnel}
    leave: dict[str, Value] = {**udp, "meta oifname": tunnel}
    if peer is not None:
        come["ip saddr"] = leave["ip daddr"] = str(peer)
    yield Packet(f"{name} packets that come out of the tunnel", "input", 4, come)
    yield Packet(f"{name} packets that go into the tunnel", "output", 4, leave)


def frames(network: str) -> Packet:
    """Return any frame of a network that its bridge forwards."""
    return Packet(f"frames of network {network}", "forward", 0)
