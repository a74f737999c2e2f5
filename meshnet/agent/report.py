"""Pure. What the agent tells people: from view and kernel state to the local API's values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network

from meshnet.errors import BadInput
from meshnet.model.addresses import Prefix, gateway
from meshnet.model.attached import LocalAttachment
from meshnet.model.keys import PublicKey
from meshnet.model.names import DEFAULT_NETWORK, ZONE
from meshnet.model.records import Instance
from meshnet.model.view import Node, View, addresses_of
from meshnet.paths.liveness import Liveness
from meshnet.plan.state import Host, Peer, PeerStatus
from meshnet.wire.local import (
    AttachmentInfo,
    Counts,
    InstanceInfo,
    NetworkInfo,
    NodeInfo,
    PeerInfo,
    PortSpec,
    ServiceInfo,
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What a report is made from. `kernel` is the last read, `here` this node's attachments."""

    view: View
    own: str
    liveness: Liveness
    kernel: Host = field(default_factory=Host)
    here: tuple[LocalAttachment, ...] = ()
    mtu: int = 0
    fits: Mapping[str, int] = field(default_factory=dict)

    def reaches(self, node: str) -> bool:
        return node == self.own or node in self.liveness.reachable


def nodes(scene: Scene) -> list[NodeInfo]:
    """Return every member, by name."""
    return [
        NodeInfo(
            id=node.id,
            name=node.name,
            addresses=mesh_addresses(node),
            not_after=node.membership.not_after,
            reachable=scene.reaches(node.id),
            own=node.id == scene.own,
            tags=node.membership.tags,
            endpoint=_endpoint(scene, node),
            version=node.record.version if node.record else "",
            attachments=len(node.attachments),
            instances=len(node.instances),
        )
        for node in by_name(scene.view)
    ]


def networks(scene: Scene) -> list[NetworkInfo]:
    """Return every network, by name."""
    leases = scene.view.statements.leases.get(scene.own, ())
    return [
        NetworkInfo(
            name=network.name,
            vni=network.vni,
            prefixes=tuple(str(prefix) for prefix in network.prefixes),
            gateways=tuple(str(gateway(prefix)) for prefix in network.prefixes),
            flood=network.flood,
            mtu=scene.mtu,
            attachments=sum(1 for _ in scene.view.attachments(network.name)),
            here=sum(1 for item in scene.here if item.network == network.name),
            leases=tuple(str(lease.prefix) for lease in leases if lease.network == network.name),
        )
        for _, network in sorted(scene.view.networks.items())
    ]


def services(scene: Scene) -> list[ServiceInfo]:
    """Return every service and its instances, by network and name."""
    grouped: dict[tuple[str, str], list[InstanceInfo]] = {}
    for node in by_name(scene.view):
        for instance in node.instances:
            slot = (instance.network, instance.service)
            grouped.setdefault(slot, []).append(_instance(scene, node, instance))
    return [
        ServiceInfo(
            service=service,
            network=network,
            dns=service_name(service, network),
            instances=tuple(grouped[network, service]),
        )
        for network, service in sorted(grouped)
    ]


def service_name(service: str, network: str) -> str:
    """Return the name a service is found by."""
    middle = "" if network == DEFAULT_NETWORK else f".{network}"
    return f"{service}{middle}.{ZONE}"


def _instance(scene: Scene, node: Node, instance: Instance) -> InstanceInfo:
    why_not = _why_not(scene, node, instance)
    return InstanceInfo(
        node=node.name,
        attachment=instance.attachment,
        addresses=tuple(str(address) for address in addresses_of(node, instance)),
        ports=tuple(
            PortSpec(number=p.number, protocol=p.protocol, name=p.name) for p in instance.ports
        ),
        healthy=instance.healthy,
        answered=not why_not,
        why_not=why_not,
        weight=instance.weight,
        metadata=instance.metadata,
    )


def _why_not(scene: Scene, node: Node, instance: Instance) -> str:
    if not instance.healthy:
        return "unhealthy"
    if instance.weight == 0:
        return "weight 0"
    if not scene.reaches(node.id):
        return f"node {node.name} is not reachable from here"
    return ""


def peers(scene: Scene) -> list[PeerInfo]:
    """Return every peer with a tunnel key, by name."""
    tunnel = scene.kernel.tunnel
    known: Mapping[PublicKey, Peer] = tunnel.peers if tunnel else {}
    status: Mapping[PublicKey, PeerStatus] = tunnel.status if tunnel else {}
    rows = []
    for node in by_name(scene.view):
        if node.record is None or node.id == scene.own:
            continue
        key = next((k for k in node.record.wireguard if k in known), node.record.wireguard[0])
        rows.append(_peer(scene, node, key, known.get(key), status.get(key, PeerStatus())))
    return rows


def _peer(
    scene: Scene, node: Node, key: PublicKey, peer: Peer | None, status: PeerStatus
) -> PeerInfo:
    assert node.record is not None
    return PeerInfo(
        node=node.id,
        name=node.name,
        public_key=str(key),
        endpoint=str(peer.endpoint) if peer and peer.endpoint else "",
        reachable=scene.reaches(node.id),
        last_handshake=status.last_handshake,
        received=status.received,
        sent=status.sent,
        rtt=(scene.liveness.round_trip(node.id) or 0.0) * 1000,
        mtu=scene.fits.get(node.id, 0),
        keepalive=peer.keepalive if peer else 0,
        allowed_ips=tuple(sorted(str(prefix) for prefix in peer.allowed_ips)) if peer else (),
        candidates=tuple(f"{c.endpoint} {c.provenance}" for c in node.record.candidates),
        next_public_key=" ".join(str(other) for other in node.record.wireguard if other != key),
    )


def attachments(here: Collection[LocalAttachment]) -> list[AttachmentInfo]:
    """Return this node's attachments."""
    return [
        AttachmentInfo(
            network=item.network,
            name=item.name,
            interface=item.interface,
            addresses=item.addresses,
            mac=item.mac,
            netns=item.netns,
            host=item.host,
            services=tuple(instance.service for instance in item.instances),
            owner=item.owner,
        )
        for item in here
    ]


def counts(scene: Scene) -> Counts:
    """Return how much of what there is."""
    members = list(scene.view.nodes.values())
    instances = [instance for node in members for instance in node.instances]
    others = [node.id for node in members if node.record and node.id != scene.own]
    return Counts(
        nodes=len(members),
        networks=len(scene.view.networks),
        services=len({(instance.network, instance.service) for instance in instances}),
        instances=len(instances),
        attachments=sum(len(node.attachments) for node in members),
        peers=len(others),
        reachable=len(scene.liveness.reachable & set(others)),
    )


def by_name(view: View) -> list[Node]:
    """Return the members, by name."""
    return sorted(view.nodes.values(), key=lambda node: (node.name, node.id))


def parse_prefix(text: str) -> Prefix:
    """Read a network prefix; raise BadInput for anything else."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise BadInput(
            f"{text[:60]!r} is not a prefix", "Give for example 10.50.0.0/16."
        ) from error


def mesh_addresses(node: Node) -> tuple[str, ...]:
    """Return a node's mesh addresses, IPv4 first."""
    return str(node.membership.address4), str(node.membership.address6)


def _endpoint(scene: Scene, node: Node) -> str:
    if scene.kernel.tunnel is None or node.record is None:
        return ""
    peer = scene.kernel.tunnel.peers.get(node.record.wireguard[0])
    return str(peer.endpoint) if peer and peer.endpoint else ""
