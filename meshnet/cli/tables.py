"""Pure. What the agent tells, as text: one function a kind of reply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from meshnet.cli.text import NOTHING, Table, ago, amount, count, date, span, until, words, yes
from meshnet.wire.local import (
    Attached,
    AttachmentInfo,
    CoordinatorState,
    DnsAnswer,
    DnsState,
    InstanceInfo,
    NetworkInfo,
    NodeInfo,
    PeerInfo,
    PortSpec,
    Reconciled,
    ServiceInfo,
    Status,
)


def status_text(status: Status) -> str:
    """Return the page that `meshnet status` prints: `Subject: words`, then warnings."""
    return "\n".join([*_status_lines(status), *(f"Warning: {line}" for line in status.warnings)])


def _status_lines(status: Status) -> Iterator[str]:
    counts = status.counts
    up = span(status.now - status.started)
    yield f"Node: {status.name} ({status.node}), meshnet {status.version}, up {up}"
    yield f"Addresses: {words(status.addresses)}"
    yield f"WireGuard: {status.backend}"
    nat = ", behind a NAT" if status.behind_nat else ""
    yield f"Tunnel: {status.interface}, port {status.listen_port}, mtu {status.mtu}{nat}"
    yield f"Public key: {status.public_key}"
    if status.next_public_key:
        yield f"Next key: {status.next_public_key}, announced"
    yield f"Coordinator: {_coordinator(status.coordinator, status.now)}"
    yield (
        f"Membership: until {date(status.membership_not_after)}"
        f" ({until(status.membership_not_after, status.now)})"
    )
    yield f"View: revision {status.revision}, digest {status.digest[:12]}"
    yield (
        f"Mesh: {count(counts.nodes, 'node')}, {count(counts.networks, 'network')},"
        f" {count(counts.attachments, 'attachment')}, {count(counts.services, 'service')}"
        f" with {count(counts.instances, 'instance')}"
    )
    yield f"Peers: {counts.reachable} of {counts.peers} reachable"
    yield f"DNS: {_dns(status.dns)}"
    yield f"Reconciled: {ago(status.last_reconcile, status.now)}"
    yield f"Repairs: {_repairs(status.repairs)}"
    if status.refused:
        yield f"Refused: {count(status.refused, 'fact')} signed but not true"


def _coordinator(state: CoordinatorState, now: int) -> str:
    if state.connected:
        return f"connected to {state.url} for {span(now - state.since)}"
    lasting = f" for {span(now - state.since)}" if state.since else ""
    reason = f" ({state.last_error})" if state.last_error else ""
    return f"not connected{lasting}{reason}"


def _dns(state: DnsState) -> str:
    if not state.running:
        return f"not answering ({state.last_error or 'not started'})"
    forwarding = "forwards the rest" if state.forwarding else "refuses the rest"
    host = f", host asks by {state.host}" if state.host else ", host does not ask it"
    return (
        f"{count(state.names, 'name')} of {state.zone}. on {words(state.addresses)},"
        f" {forwarding}{host}"
    )


def host_dns_text(state: DnsState) -> str:
    """Return one sentence on how the host itself asks for our names, and what else could be."""
    if state.host:
        return f"This host asks for {state.zone}. names by {state.host}."
    return (
        f"This host does not ask for {state.zone}. names: systemd-resolved does not run, or it was"
        f" turned off.\nAsk {words(state.addresses[:1])} yourself, or have it named in"
        " /etc/resolv.conf: `meshnet dns host file`."
    )


def _repairs(repairs: dict[str, int]) -> str:
    return ", ".join(f"{kind} {number}" for kind, number in sorted(repairs.items())) or "none"


def nodes_table(nodes: Sequence[NodeInfo], now: float) -> Table:
    heads = ("NAME", "ID", "ADDRESSES", "REACHABLE", "ENDPOINT", "VERSION", "INSTANCES", "EXPIRES")
    rows = (
        (
            node.name,
            node.id,
            words(node.addresses),
            "self" if node.own else yes(node.reachable),
            node.endpoint or NOTHING,
            node.version or NOTHING,
            str(node.instances),
            until(node.not_after, now),
        )
        for node in nodes
    )
    return Table(heads, tuple(rows), frozenset({"INSTANCES"}))


def networks_table(networks: Sequence[NetworkInfo], now: float) -> Table:
    heads = ("NAME", "VNI", "PREFIXES", "GATEWAYS", "MTU", "ATTACHMENTS", "HERE", "FLOOD")
    rows = (
        (
            network.name,
            str(network.vni),
            words(network.prefixes),
            words(network.gateways),
            str(network.mtu or NOTHING),
            str(network.attachments),
            str(network.here),
            yes(network.flood),
        )
        for network in networks
    )
    return Table(heads, tuple(rows), frozenset({"VNI", "MTU", "ATTACHMENTS", "HERE"}))


def services_table(services: Sequence[ServiceInfo], now: float) -> Table:
    heads = ("SERVICE", "NODE", "ATTACHMENT", "ADDRESSES", "PORTS", "HEALTHY", "ANSWERED")
    rows = (
        (service.dns, *_instance(instance))
        for service in services
        for instance in service.instances
    )
    return Table(heads, tuple(rows))


def _instance(instance: InstanceInfo) -> tuple[str, ...]:
    return (
        instance.node,
        instance.attachment,
        words(instance.addresses),
        words(port_text(port) for port in instance.ports),
        yes(instance.healthy),
        "yes" if instance.answered else f"no: {instance.why_not}",
    )


def port_text(port: PortSpec) -> str:
    """Return a port as `--port` takes it: `80/tcp`, or `http:80/tcp` when it has a name."""
    name = f"{port.name}:" if port.name else ""
    return f"{name}{port.number}/{port.protocol}"


def peers_table(peers: Sequence[PeerInfo], now: float) -> Table:
    heads = (
        "NAME",
        "ENDPOINT",
        "REACHABLE",
        "HANDSHAKE",
        "RECEIVED",
        "SENT",
        "RTT",
        "MTU",
        "PUBLIC KEY",
    )
    rows = (
        (
            peer.name,
            peer.endpoint or NOTHING,
            yes(peer.reachable),
            ago(peer.last_handshake, now),
            amount(peer.received),
            amount(peer.sent),
            f"{peer.rtt:.1f} ms" if peer.rtt else NOTHING,
            str(peer.mtu or NOTHING),
            peer.public_key + (f", then {peer.next_public_key}" if peer.next_public_key else ""),
        )
        for peer in peers
    )
    return Table(heads, tuple(rows), frozenset({"RECEIVED", "SENT", "RTT", "MTU"}))


def candidates_table(peers: Sequence[PeerInfo], now: float) -> Table:
    """Return where each peer may be reached: a row a candidate, the one in use marked."""
    rows = (
        (peer.name, endpoint, provenance, "yes" if endpoint == peer.endpoint else "")
        for peer in peers
        for endpoint, _, provenance in (text.partition(" ") for text in peer.candidates)
    )
    return Table(("NAME", "ENDPOINT", "PROVENANCE", "USED"), tuple(rows))


def attachments_table(attachments: Sequence[AttachmentInfo], now: float) -> Table:
    heads = ("NETWORK", "NAME", "INTERFACE", "ADDRESSES", "MAC", "NAMESPACE", "SERVICES")
    rows = (
        (
            attachment.network,
            attachment.name,
            attachment.interface,
            words(attachment.addresses),
            attachment.mac,
            "host" if attachment.host else attachment.netns or NOTHING,
            words(attachment.services),
        )
        for attachment in attachments
    )
    return Table(heads, tuple(rows))


def attached_text(given: Attached) -> str:
    """Return what an attachment was given, a line a thing."""
    lines = [
        f"Attached: {given.name} to {given.network} as {given.interface}",
        f"Addresses: {words(given.addresses)}",
        f"MAC: {given.mac}, mtu {given.mtu}",
        f"Gateways: {words(given.gateways)}",
        f"DNS servers: {words(given.dns)}",
        f"Routes: {words(given.routes)}",
    ]
    return "\n".join([*lines, f"Names: {words(given.names)}"] if given.names else lines)


def answer_text(answer: DnsAnswer) -> str:
    """Return an answer in presentation form, comments by semicolon as in a zone file."""
    taken = f"{answer.milliseconds:.1f} ms" if answer.milliseconds else "no time"
    head = f"; {answer.name} {answer.type}: {answer.rcode} from {answer.server}, {taken}"
    records = [f"{r.name} {r.ttl} IN {r.type} {r.data}" for r in answer.answers]
    authority = [f"; authority: {r.name} {r.ttl} IN {r.type} {r.data}" for r in answer.authority]
    return "\n".join([head, *records, *authority])


def numbered(operations: Iterable[str]) -> str:
    """Return operations in their order, a line each."""
    lines = list(operations)
    width = len(str(len(lines)))
    return "\n".join(f"{index:{width}}  {line}" for index, line in enumerate(lines, 1))


def reconciled_text(result: Reconciled) -> str:
    """Return what a reconciliation did and what failed."""
    head = f"{count(len(result.operations), 'operation')} in {result.milliseconds:.1f} ms"
    parts = [head, numbered(result.operations), *(f"failed: {line}" for line in result.failed)]
    return "\n".join(part for part in parts if part)
