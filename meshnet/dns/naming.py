"""Pure. The names that each thing of the mesh claims, and with which records.

`dns.zone` says what the names mean; here they are made. Functions yield claims for one subject.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from meshnet.dns.book import Claim
from meshnet.dns.records import (
    LABEL_MAX,
    NAME_MAX,
    NS,
    PTR,
    address_tail,
    reverse_name,
    reverse_zone,
    soa_tail,
    srv_tail,
    tail,
    txt_tail,
)
from meshnet.dns.static import APEX
from meshnet.dns.table import COMMON
from meshnet.model.addresses import Address, Prefix
from meshnet.model.records import Instance, ServicePort
from meshnet.model.statements import Membership

SERVICE_TTL = 5
NODE_TTL = 60
APEX_TTL = 60
NEGATIVE_TTL = 5

APEX_RANK, STATIC_RANK, NODE_RANK, NETWORK_RANK, SERVICE_RANK, ATTACHMENT_RANK, EMPTY_RANK = range(
    7
)

PORT_NAMES = {
    22: "ssh",
    25: "smtp",
    53: "domain",
    80: "http",
    143: "imap",
    389: "ldap",
    443: "https",
    587: "submission",
    636: "ldaps",
    993: "imaps",
    1883: "mqtt",
    3306: "mysql",
    4222: "nats",
    5432: "postgresql",
    5672: "amqp",
    6379: "redis",
    9092: "kafka",
    11211: "memcache",
    27017: "mongodb",
}
"""Service types of well-known ports, for instances that give a port no name."""


@dataclass(frozen=True, slots=True)
class Place:
    """An attachment, the name of its node, and whether that node is reachable."""

    node: str
    addresses: tuple[Address, ...]
    live: bool


@dataclass(frozen=True, slots=True)
class Member:
    """One instance and where it is. `live`: it is to be answered."""

    node: str
    instance: Instance
    addresses: tuple[Address, ...]
    live: bool


def below(label: str, parent: bytes) -> bytes:
    """Return the name `label` below `parent`. The label is one by construction."""
    return bytes((len(label),)) + label.encode() + parent


SERVER = below("ns", APEX)
_MAILBOX = below("hostmaster", APEX)


def zone_claims(origin: bytes, static: bytes = b"") -> Iterator[Claim]:
    """Yield the apex of a zone: SOA, NS and what static records stand there."""
    records = soa_tail(APEX_TTL, SERVER, _MAILBOX, NEGATIVE_TTL) + tail(NS, APEX_TTL, SERVER)
    yield Claim(COMMON, APEX_RANK, origin, records + static)


def server_claims(layer: str, addresses: Iterable[Address]) -> Iterator[Claim]:
    """Yield the name of the server as one context sees it."""
    yield Claim(layer, APEX_RANK, SERVER, _addresses(addresses, APEX_TTL))


def reverse_zones(prefix: Prefix) -> Iterator[bytes]:
    """Yield the reverse zones that make up a prefix: they end at octets (IPv4), nibbles (IPv6)."""
    step = 8 if prefix.version == 4 else 4
    bits = max(step, -(-prefix.prefixlen // step) * step)
    for part in prefix.subnets(new_prefix=bits):
        yield reverse_zone(part.network_address, bits)


def node_claims(membership: Membership) -> Iterator[Claim]:
    """Yield a node's own name and the PTR records of its mesh addresses."""
    owner = below(membership.name, APEX)
    addresses = (membership.address4, membership.address6)
    yield Claim(COMMON, NODE_RANK, owner, _addresses(addresses, NODE_TTL))
    for address in addresses:
        yield Claim(COMMON, NODE_RANK, reverse_name(address), tail(PTR, NODE_TTL, owner))


def attachment_claims(
    layer: str, rank: int, owner: bytes, places: Iterable[Place]
) -> Iterator[Claim]:
    """Yield one name of an attachment: the addresses where its node is reachable."""
    live = [address for place in places if place.live for address in place.addresses]
    yield Claim(layer, rank, owner, _addresses(live, SERVICE_TTL))


def pointer_claims(layer: str, rank: int, owner: bytes, places: Iterable[Place]) -> Iterator[Claim]:
    """Yield the PTR records of an attachment."""
    for place in places:
        for address in place.addresses:
            yield Claim(layer, rank, reverse_name(address), tail(PTR, SERVICE_TTL, owner))


def service_claims(layer: str, rank: int, owner: bytes, members: list[Member]) -> Iterator[Claim]:
    """Yield a service's name, its instances' names and its SRV names, all below `owner`."""
    yield Claim(layer, rank, owner, group_records(members))
    for attachment, group in _by_attachment(members).items():
        yield Claim(layer, rank, below(attachment, owner), group_records(group))
    crowded = crowded_attachments(members)
    by_type: dict[tuple[str, str], list[bytes]] = {}
    for member in members:
        for port in member.instance.ports:
            if kind := port_type(port):
                by_type.setdefault((kind, port.protocol), []).extend(_srv(member, port, crowded))
    for (kind, protocol), records in by_type.items():
        srv = below("_" + kind, below("_" + protocol, owner))
        yield Claim(layer, rank, srv, b"".join(dict.fromkeys(records)))


def crowded_claims(members: list[Member]) -> Iterator[Claim]:
    """Yield the names by node of instances whose attachment name several nodes have."""
    crowded = crowded_attachments(members)
    for member in members:
        if (member.instance.network, member.instance.attachment) in crowded:
            yield Claim(COMMON, NODE_RANK, instance_name(member, crowded), group_records([member]))


def crowded_attachments(members: Iterable[Member]) -> frozenset[tuple[str, str]]:
    """Return the (network, attachment) names that more than one of the members has."""
    seen: set[tuple[str, str]] = set()
    crowded: set[tuple[str, str]] = set()
    for member in members:
        key = (member.instance.network, member.instance.attachment)
        (crowded if key in seen else seen).add(key)
    return frozenset(crowded)


def instance_name(member: Member, crowded: frozenset[tuple[str, str]]) -> bytes:
    """Return the name of one instance: `c1.web.appnet.mesh`, with the node where it needs one."""
    instance = member.instance
    key = (instance.network, instance.attachment)
    base = below(member.node, APEX) if key in crowded else APEX
    return below(instance.attachment, below(instance.service, below(instance.network, base)))


def port_type(port: ServicePort) -> str:
    """Return the service type of a port for SRV (RFC 2782), or '' when it has none."""
    kind = port.name or PORT_NAMES.get(port.number, "")
    return kind if len(kind) < LABEL_MAX else ""


def group_records(members: list[Member]) -> bytes:
    """Return addresses and metadata of those members that are live."""
    live = [member for member in members if member.live]
    addresses = [address for member in live for address in member.addresses]
    texts = dict.fromkeys(_metadata(member.instance) for member in live if member.instance.metadata)
    return _addresses(addresses, SERVICE_TTL) + b"".join(texts)


def _by_attachment(members: list[Member]) -> dict[str, list[Member]]:
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.instance.attachment, []).append(member)
    return groups


def _srv(member: Member, port: ServicePort, crowded: frozenset[tuple[str, str]]) -> Iterator[bytes]:
    target = instance_name(member, crowded)
    if member.live and len(target) <= NAME_MAX:
        yield srv_tail(SERVICE_TTL, member.instance.weight, port.number, target)


def _metadata(instance: Instance) -> bytes:
    """Return one TXT record with a string `key=value` for each pair (RFC 6763, section 6)."""
    pairs = sorted(instance.metadata.items())
    return txt_tail(SERVICE_TTL, [f"{key}={value}".encode() for key, value in pairs])


def _addresses(addresses: Iterable[Address], ttl: int) -> bytes:
    """Return A before AAAA, each address once."""
    unique = dict.fromkeys(addresses)
    ordered = sorted(unique, key=lambda address: address.version)
    return b"".join(address_tail(address, ttl) for address in ordered)
