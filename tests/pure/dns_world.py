"""Pure. Small meshes for the tests of DNS, and their zones as text, read by dnspython.

The product writes records by hand, so another library has to read them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from meshnet.dns.contents import Change, Contents
from meshnet.dns.lookup import Lookup
from meshnet.dns.records import A, tails
from meshnet.dns.table import HOST, Table
from meshnet.dns.zone import Zones
from meshnet.model.keys import IdentityKey
from meshnet.model.records import Attachment, Instance, ServicePort
from meshnet.model.statements import Membership, Mesh, Network, StaticRecord
from meshnet.model.view import Node, Statements, View

FOREVER = 1 << 40
MESH = Mesh(IPv4Network("10.213.0.0/16"), IPv6Network("fd00::/48"))
NETWORKS = (
    Network("default", 1, (IPv4Network("10.214.0.0/16"), IPv6Network("fd00:0:0:1::/64"))),
    Network("appnet", 2, (IPv4Network("10.1.0.0/24"),)),
    Network("backend", 3, (IPv4Network("10.1.0.0/24"), IPv6Network("fd00:0:0:3::/64"))),
)
HTTP = ServicePort(80)


def identity(number: int) -> IdentityKey:
    return IdentityKey(number.to_bytes(32, "big"))


def node_id(number: int) -> str:
    return identity(number).node_id


def membership(number: int, name: str = "") -> Membership:
    return Membership(
        node=node_id(number),
        name=name or f"node{number}",
        identity=identity(number),
        address4=IPv4Address("10.213.0.0") + number,
        address6=IPv6Address(f"fd00::{number:x}"),
        not_after=FOREVER,
    )


def attachment(network: str, name: str, *addresses: str) -> Attachment:
    found = tuple(ip_address(address) for address in addresses)
    return Attachment(network, name, found, "0a:00:00:00:00:01")


def instance(
    network: str,
    service: str,
    attachment: str,
    *ports: ServicePort,
    healthy: bool = True,
    weight: int = 1,
    **metadata: str,
) -> Instance:
    return Instance(network, service, attachment, ports or (HTTP,), healthy, weight, metadata)


def node(number: int, *things: Attachment | Instance, name: str = "") -> Node:
    """A node with what is attached to it and runs on it."""
    attachments = [thing for thing in things if isinstance(thing, Attachment)]
    return Node(
        membership(number, name),
        attachments={(one.network, one.name): one for one in attachments},
        instances=tuple(thing for thing in things if isinstance(thing, Instance)),
    )


def view(
    *nodes: Node,
    static: Iterable[StaticRecord] = (),
    networks: Iterable[Network] = NETWORKS,
) -> View:
    statements = Statements(
        mesh=MESH,
        memberships={one.id: one.membership for one in nodes},
        networks={network.name: network for network in networks},
        static=tuple(static),
    )
    return View(statements, {one.id: one for one in sorted(nodes, key=lambda one: one.id)})


def network(name: str, vni: int, *prefixes: str) -> Network:
    return Network(name, vni, tuple(ip_network(prefix) for prefix in prefixes))


def lookup_of(table: Table, *, recursion: bool = False, serial: int = 7) -> Lookup:
    """The table as the DNS process holds it."""
    change = Change(full=True)
    change.describe("here", [layer for layer, _ in table.layers], sorted(table.origins))
    for layer, names in table.layers:
        for owner, records in names.items():
            change.put(layer, owner, records)
    return change.commit(Contents(), serial, recursion).lookup("here")


def record_text(owner: bytes, tail: bytes) -> str:
    """One record as a line: owner, TTL, type, data."""
    kind = dns.rdatatype.RdataType.make(int.from_bytes(tail[:2], "big"))
    ttl = int.from_bytes(tail[4:8], "big")
    data = dns.rdata.from_wire(dns.rdataclass.IN, kind, tail, 10, len(tail) - 10)
    name = dns.name.from_wire(owner, 0)[0].to_text(omit_final_dot=True)
    return f"{name} {ttl} {dns.rdatatype.to_text(kind)} {data}"


def owner_text(table: Table, text: str) -> list[str] | None:
    """What an owner has, a line for each record without the owner; None when there is no owner."""
    owner = dns.name.from_text(text).to_wire()
    assert owner is not None
    records = table.get(owner.lower())
    if records is None:
        return None
    return [record_text(owner, tail).split(" ", 1)[1] for _, tail in tails(records)]


def zone_text(table: Table, *, reverse: bool = False) -> str:
    """All names as lines, sorted; names without records with a dash. Reverse names on demand."""
    owners = {owner for _, layer in table.layers for owner in layer}
    lines = []
    for owner in owners:
        name = dns.name.from_wire(owner, 0)[0].to_text(omit_final_dot=True)
        if name.endswith(".arpa") != reverse:
            continue
        found = [record_text(owner, tail) for _, tail in tails(table.get(owner) or b"")]
        lines += found or [f"{name} -"]
    return "\n".join(sorted(lines))


SAMPLES = (
    StaticRecord("*.dev", "CNAME", ("web",)),
    StaticRecord("*.wild", "A", ("192.0.2.1",)),
    StaticRecord("host.wild", "TXT", ("here",)),
    StaticRecord("deep.below.wild", "TXT", ("here",)),
    StaticRecord("alias", "CNAME", ("web",)),
    StaticRecord("dangling", "CNAME", ("nowhere",)),
    StaticRecord("out", "CNAME", ("www.example.com.",)),
    StaticRecord("loop1", "CNAME", ("loop2",)),
    StaticRecord("loop2", "CNAME", ("loop1",)),
)


def mesh_lookup(
    *, recursion: bool = False, instances: int = 3, static: Iterable[StaticRecord] | None = None
) -> Lookup:
    """A mesh with `web` on several nodes, `idle` without live instances, and static records."""
    nodes = [
        node(
            number,
            attachment("default", f"c{number}", f"10.214.0.{number}", f"fd00:0:0:1::{number:x}"),
            instance("default", "web", f"c{number}", ServicePort(80), v=str(number % 3)),
            instance("default", "idle", f"c{number}", healthy=False),
        )
        for number in range(1, instances + 1)
    ]
    reachable = [one.id for one in nodes]
    static = SAMPLES if static is None else static
    tables = Zones(node_id(1)).update(view(*nodes, static=static), reachable, ())
    return lookup_of(tables[HOST], recursion=recursion)


def dns_query(what: str, opt: bytes = b"", kind: int = A) -> bytes:
    """A query in wire form, with an OPT record if one is given."""
    text = dns.name.from_text(what).to_wire()
    assert text is not None
    counts = b"\0\1\0\0\0\0\0" + bytes((bool(opt),))
    return b"\xab\xcd\1\0" + counts + text + struct.pack(">HH", kind, 1) + opt
