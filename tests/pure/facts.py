"""Pure. A small mesh to make facts of: its keys, its statements, and strategies over them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

from hypothesis import strategies as st

from meshnet.model.addresses import Endpoint, attachment_mac, mesh_prefix6, node_address6
from meshnet.model.facts import Fact
from meshnet.model.keys import IdentityKey, PublicKey, SigningKey
from meshnet.model.records import (
    Attachment,
    Candidate,
    Floor,
    Instance,
    NodeRecord,
    Record,
    ServicePort,
)
from meshnet.model.statements import (
    Issuer,
    Lease,
    Membership,
    Mesh,
    Network,
    Revocation,
    Statement,
    StaticRecord,
)
from meshnet.wire.fact import sign, sign_deletion

NOW = 1_800_000_000
LATER = NOW + 1000
ROOT = SigningKey(b"\1" * 32)
ISSUER = SigningKey(b"\2" * 32)
SECOND_ISSUER = SigningKey(b"\3" * 32)
FORGER = SigningKey(b"\4" * 32)
NODES = [SigningKey(bytes([n]) * 32) for n in (11, 12, 13)]
STRANGER = SigningKey(b"\5" * 32)
PREFIX6 = mesh_prefix6(ROOT.public.raw)
VNIS = {"default": 1000, "appnet": 1001}


def wireguard(number: int) -> PublicKey:
    return PublicKey(bytes([number]) * 32)


def membership(index: int, not_after: int = LATER, keys: tuple[PublicKey, ...] = ()) -> Membership:
    identity = NODES[index].public
    return Membership(
        node=identity.node_id,
        name=f"n{index}",
        identity=identity,
        address4=IPv4Address(0x0AD50001 + index),
        address6=node_address6(PREFIX6, identity.node_id),
        not_after=not_after,
        wireguard=keys or (wireguard(100 + index),),
    )


def network(name: str) -> Network:
    return Network(name, VNIS[name], (ip_network("10.214.0.0/16"), ip_network("fd99::/64")))


def lease(index: int, name: str = "default", not_after: int = LATER) -> Lease:
    prefix = ip_network((0x0AD60000 + 64 * index, 26))
    return Lease(name, NODES[index].public.node_id, prefix, not_after)


def attachment(index: int, name: str = "c1", host: int = 5, net: str = "default") -> Attachment:
    address = ip_address(0x0AD60000 + 64 * index + host)
    return Attachment(net, name, (address,), attachment_mac(VNIS.get(net, 1), address))


def instance(name: str = "c1", service: str = "web", net: str = "default") -> Instance:
    return Instance(net, service, name, (ServicePort(80, "tcp", "http"),))


def node_record(number: int, port: int = 51820) -> NodeRecord:
    endpoint = Endpoint(IPv6Address("2001:db8::1"), port)
    return NodeRecord((wireguard(number),), (Candidate(endpoint),))


def base() -> list[Fact]:
    """A mesh of three nodes and two networks, each node with a lease of both."""
    bodies: list[Statement] = [Mesh(IPv4Network("10.213.0.0/16"), PREFIX6)]
    bodies += [network(name) for name in VNIS]
    bodies += [membership(index) for index in range(3)]
    bodies += [lease(index, name) for index in range(3) for name in VNIS]
    facts = [sign(ROOT, Issuer(ISSUER.public, LATER), 1)]
    return facts + [sign(ISSUER, body, 10 + number) for number, body in enumerate(bodies)]


sequences = st.integers(0, 6)

_records: st.SearchStrategy[Record] = st.one_of(
    st.builds(node_record, st.sampled_from([100, 101, 102, 110]), st.integers(1, 3)),
    st.builds(
        attachment,
        st.integers(0, 2),
        st.sampled_from(["c1", "c2"]),
        st.sampled_from([1, 5, 6]),
        st.sampled_from(["default", "appnet", "nowhere"]),
    ),
    st.builds(instance, st.sampled_from(["c1", "c2"]), st.sampled_from(["web", "db"])),
)

_statements: st.SearchStrategy[Statement] = st.one_of(
    st.builds(
        membership,
        st.integers(0, 2),
        st.sampled_from([NOW, LATER]),
        st.sampled_from([(), (wireguard(100),), (wireguard(110),)]),
    ),
    st.builds(lease, st.integers(0, 2), st.sampled_from(list(VNIS)), st.sampled_from([NOW, LATER])),
    st.builds(network, st.sampled_from(list(VNIS))),
    st.sampled_from([Revocation(key.public) for key in NODES]),
    st.just(StaticRecord("x", "A", ("192.0.2.1",))),
    st.builds(Issuer, st.just(SECOND_ISSUER.public), st.sampled_from([NOW, LATER])),
)

_any_slot = st.tuples(
    st.sampled_from(["attachment", "instance", "node", "membership", "lease", "network", "other"]),
    st.sampled_from(["node", "default c1", "default web c1", "default", "x"]),
)


def _deletion(key: SigningKey, slot: tuple[str, str], sequence: int) -> Fact:
    return sign_deletion(key, *slot, sequence)


floors: st.SearchStrategy[Fact] = st.builds(
    sign,
    st.sampled_from([*NODES, ISSUER, SECOND_ISSUER]),
    st.builds(Floor, st.integers(1, 20)),
    st.integers(0, 40),
)

signed_facts: st.SearchStrategy[Fact] = st.one_of(
    floors,
    st.builds(sign, st.sampled_from([*NODES, STRANGER, ISSUER]), _records, sequences),
    st.builds(
        sign,
        st.sampled_from([ISSUER, SECOND_ISSUER, FORGER, ROOT, NODES[0]]),
        _statements,
        st.integers(5, 40),
    ),
    st.builds(_deletion, st.sampled_from([*NODES, ISSUER]), _any_slot, st.integers(0, 40)),
)


def identity(index: int) -> IdentityKey:
    return NODES[index].public
