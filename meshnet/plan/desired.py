"""Pure. From the view and what this node knows of itself to the desired state of its host.

A network lives on this host when a port of this host is on it, or an engine here has it. Entries
of a network (FDB and neighbours) come from attachments of other nodes and from nothing else; see
`entries`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Address, ip_interface, ip_network

from meshnet.model.addresses import (
    RESOLVER,
    Address,
    Endpoint,
    Interface,
    Prefix,
    gateway,
    gateway_mac,
    node_prefix6,
    vtep_mac,
)
from meshnet.model.keys import PrivateKey, PublicKey
from meshnet.model.records import Attachment
from meshnet.model.statements import Mesh, Network
from meshnet.model.view import Node, View
from meshnet.plan.entries import Entries
from meshnet.plan.mtu import best_mtu, network_mtu, route_mtu
from meshnet.plan.state import (
    HANDED,
    HOST,
    VXLAN_PORT,
    Guard,
    Host,
    Peer,
    Port,
    Segment,
    Tunnel,
    handed_interface,
)

KEEPALIVE_BEHIND_NAT = 25
"""Seconds; shorter than the UDP mapping time-out of common NATs (RFC 4787, section 4.3)."""


@dataclass(frozen=True, slots=True)
class LocalPort:
    """One attachment of this node and the namespace it is in (`netns` HOST for the host itself)."""

    attachment: Attachment
    netns: str
    inode: int
    interface: str

    @property
    def veth(self) -> str:
        """The name of the end on the bridge: from the MAC, which is unique within the network."""
        return "p" + self.attachment.mac.replace(":", "")


@dataclass(frozen=True, slots=True)
class Local:
    """What this node knows of itself. `endpoints`: what path selection wants set now.

    `mtu` is the device's, `best` fits into a tunnel over the widest of this host's links; `mtus`
    are what fits into the tunnel to each peer, by node. `keys` are those to hold the peers by that
    have announced another, see `plan.rotation`; all others by the first they have named. `held`
    networks are here without a port, too.
    """

    node: str
    tunnel: str
    private_key: PrivateKey
    listen_port: int
    mtu: int
    best: int
    ports: tuple[LocalPort, ...] = ()
    endpoints: Mapping[PublicKey, Endpoint] = field(default_factory=dict)
    mtus: Mapping[str, int] = field(default_factory=dict)
    behind_nat: bool = False
    keys: Mapping[str, Sequence[PublicKey]] = field(default_factory=dict)
    held: frozenset[str] = frozenset()


def desired(view: View, local: Local, entries: Entries) -> Host:
    """Return all that should be on this host; an empty host while it is no member.

    `entries` is the memory of an earlier call, or new: it saves time and changes nothing else.
    """
    me = view.nodes.get(local.node)
    mesh = view.statements.mesh
    if me is None or mesh is None:
        return Host()
    addresses: frozenset[Interface] = frozenset(
        _interface(address, address.max_prefixlen)
        for address in (me.membership.address4, me.membership.address6, RESOLVER)
    )
    tunnel = Tunnel(
        name=local.tunnel,
        private_key=local.private_key,
        listen_port=local.listen_port,
        mtu=local.mtu,
        addresses=addresses,
        routes=_routes(view, local, mesh),
        peers=_peers(view, local, entries),
    )
    guard = Guard(
        local.tunnel,
        _node_prefixes(mesh),
        frozenset({VXLAN_PORT}),
        _host_prefixes(view, local),
        local.listen_port,
    )
    return Host(tunnel, guard, _segments(view, local, me, entries))


def _node_prefixes(mesh: Mesh) -> frozenset[Prefix]:
    """Return where nodes have their addresses. The rest of the ULA belongs to networks, and a host
    speaks on those by interfaces of its own."""
    return frozenset({mesh.prefix4, node_prefix6(mesh.prefix6)})


def _host_prefixes(view: View, local: Local) -> frozenset[Prefix]:
    names = {port.attachment.network for port in local.ports if port.netns == HOST}
    networks = [view.networks[name] for name in names if name in view.networks]
    return frozenset(prefix for network in networks for prefix in network.prefixes)


def _peers(view: View, local: Local, entries: Entries) -> dict[PublicKey, Peer]:
    keepalive = KEEPALIVE_BEHIND_NAT if local.behind_nat else 0
    peers: dict[PublicKey, Peer] = {}
    for node in remote_nodes(view, local.node):
        assert node.record is not None
        used, *others = local.keys.get(node.id) or node.record.wireguard[:1]
        peers[used] = entries.peer(node, keepalive)
        for other in others:
            peers.setdefault(other, Peer(frozenset(), keepalive=keepalive))
    for key, endpoint in local.endpoints.items():
        if key in peers:
            peers[key] = replace(peers[key], endpoint=endpoint)
    return peers


def _routes(view: View, local: Local, mesh: Mesh) -> dict[Prefix, int]:
    """Return the mesh's prefixes, and the peers that take less than the device carries."""
    routes: dict[Prefix, int] = {mesh.prefix4: 0, mesh.prefix6: 0}
    for node, fits in local.mtus.items():
        if fits < local.mtu and (peer := view.nodes.get(node)) is not None:
            for address in (peer.membership.address4, peer.membership.address6):
                if mtu := route_mtu(fits, local.mtu, address.version):
                    routes[ip_network(address)] = mtu
    return routes


def best_mtus(view: View, own_node: str, own: int) -> list[int]:
    """Return the best tunnel MTU of every node that has said one, and ours."""
    return [own, *(best_mtu(node.record) for node in remote_nodes(view, own_node) if node.record)]


def _segments(view: View, local: Local, me: Node, entries: Entries) -> dict[str, Segment]:
    mtu = network_mtu(best_mtus(view, local.node, local.best))
    used = sorted({port.attachment.network for port in local.ports} | local.held)
    return {
        name: _segment(view, local, me, view.networks[name], mtu, entries)
        for name in used
        if name in view.networks
    }


def _segment(
    view: View, local: Local, me: Node, network: Network, mtu: int, entries: Entries
) -> Segment:
    nodes = remote_nodes(view, local.node)
    fdb, neighbours = entries.of(network, nodes)
    return Segment(
        vni=network.vni,
        mtu=mtu,
        local=me.membership.address4,
        vtep_mac=vtep_mac(network.vni, local.node),
        gateway_mac=gateway_mac(network.vni),
        gateways=_gateways(network),
        fdb=fdb,
        neighbours=neighbours,
        ports={
            port.veth: _port(port, network, mtu)
            for port in local.ports
            if port.attachment.network == network.name
        },
        flood=_flood(nodes, network),
    )


def _gateways(network: Network) -> frozenset[Interface]:
    """Return where a network's containers ask for names: at its gateways and at our resolver."""
    gateways = {_interface(gateway(prefix), prefix.prefixlen) for prefix in network.prefixes}
    return frozenset(gateways | {_interface(RESOLVER, RESOLVER.max_prefixlen)})


def _port(port: LocalPort, network: Network, mtu: int) -> Port:
    sources = frozenset(port.attachment.addresses)
    if port.netns == HANDED:
        interface = handed_interface(port.veth)
        return Port(HANDED, 0, interface, port.attachment.mac, mtu, frozenset(), sources=sources)
    return Port(
        netns=port.netns,
        inode=port.inode,
        interface=port.interface,
        mac=port.attachment.mac,
        mtu=mtu,
        addresses=frozenset(on_link(network, port.attachment.addresses)),
        sources=sources,
    )


def on_link(network: Network, addresses: Iterable[Address]) -> list[Interface]:
    """Return the addresses with the prefix length of the network, so that all of it is on link."""
    return [
        _interface(address, prefix.prefixlen)
        for address in addresses
        for prefix in network.prefixes
        if address in prefix
    ]


@lru_cache(maxsize=1 << 16)
def _interface(address: Address, length: int) -> Interface:
    return ip_interface(f"{address}/{length}")


def remote_nodes(view: View, own_node: str) -> list[Node]:
    """Return the other nodes that have a tunnel."""
    nodes = view.nodes.items()
    return [node for name, node in nodes if name != own_node and node.record is not None]


def _flood(nodes: list[Node], network: Network) -> frozenset[IPv4Address]:
    if not network.flood:
        return frozenset()
    return frozenset(
        node.membership.address4
        for node in nodes
        if any(name == network.name for name, _ in node.attachments)
    )


def host_interface(network: str) -> str:
    """Return the name of the host's own interface on a network: at most 15 characters."""
    return f"mesh-{network}" if len(network) <= 10 else f"mesh-{network[:5]}{_short(network)}"


def _short(text: str) -> str:
    return f"{sum(ord(char) * 31**place for place, char in enumerate(text)) % 16**5:05x}"
