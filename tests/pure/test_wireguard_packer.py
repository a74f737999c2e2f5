"""Our messages for WireGuard, read and written by another: pyroute2's classes and plain text."""

from __future__ import annotations

import base64
import errno
import os
import socket
import string
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyroute2.netlink.generic.wireguard import wgmsg

from meshnet.errors import KernelRefused
from meshnet.linux import wireguard_netlink, wireguard_uapi
from meshnet.linux.netlink import message
from meshnet.linux.wireguard import Device
from meshnet.linux.wireguard_link import parse_link
from meshnet.linux.wireguard_netlink import pack_device, pack_peers
from meshnet.linux.wireguard_uapi import format_peers
from meshnet.model.addresses import Endpoint, Prefix
from meshnet.model.keys import PresharedKey, PrivateKey, PublicKey
from meshnet.plan.operations import PeerChange
from meshnet.plan.state import Peer, PeerStatus

NAME = "wg0"
MESSAGE_LIMIT = 65_535

REMOVE_ME = "UNKNOWN"
"""How pyroute2, older than the flag, shows the attribute that removes one allowed IP."""

keys = st.binary(min_size=32, max_size=32).map(PublicKey)
preshared_keys = st.binary(min_size=32, max_size=32).map(PresharedKey)
addresses = st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address)
ports = st.integers(1, 65535)
endpoints = st.builds(Endpoint, addresses, ports)
prefixes = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
) | st.builds(
    lambda number, length: IPv6Network((number, length), strict=False),
    st.integers(0, 2**128 - 1),
    st.integers(0, 128),
)
seconds = st.integers(0, 65535)
prefix_sets = st.frozensets(prefixes, max_size=8)
kept = st.builds(
    PeerChange,
    key=keys,
    add=prefix_sets,
    drop=prefix_sets,
    endpoint=st.none() | endpoints,
    keepalive=st.none() | seconds,
    preshared_key=st.none() | preshared_keys,
)
removed = st.builds(PeerChange, key=keys, remove=st.just(True))
change_lists = st.lists(kept | removed, max_size=6)
peers = st.builds(
    Peer,
    allowed_ips=prefix_sets,
    endpoint=st.none() | endpoints,
    keepalive=seconds,
    preshared_key=st.none() | preshared_keys.filter(lambda key: any(key.raw)),
)
statuses = st.builds(
    PeerStatus,
    last_handshake=st.integers(0, 2**40).map(float),
    received=st.integers(0, 2**63),
    sent=st.integers(0, 2**63),
)
private_keys = st.binary(min_size=32, max_size=32).map(PrivateKey.from_random)


@st.composite
def devices(draw: st.DrawFn) -> Device:
    drawn = draw(st.dictionaries(keys, st.tuples(peers, statuses), max_size=5))
    return Device(
        private_key=draw(st.none() | private_keys),
        listen_port=draw(st.integers(0, 65535)),
        fwmark=draw(st.integers(0, 2**32 - 1)),
        peers={key: peer for key, (peer, _) in drawn.items()},
        status={key: status for key, (_, status) in drawn.items()},
    )


@given(change_lists)
def test_pyroute2_reads_from_our_messages_what_we_meant(changes: list[PeerChange]) -> None:
    read = [entry for body in pack_peers(NAME, changes) for entry in decode_peers(body)]

    assert read == [describe(change) for change in changes]


@given(private_keys, st.integers(0, 65535), st.integers(0, 2**32 - 1))
def test_pyroute2_reads_our_device_attributes(key: PrivateKey, port: int, fwmark: int) -> None:
    decoded = decode(pack_device(NAME, key, port, fwmark))

    assert (decoded["cmd"], decoded["version"]) == (1, 1)
    assert decoded.get_attr("WGDEVICE_A_IFNAME") == NAME
    assert base64.b64decode(decoded.get_attr("WGDEVICE_A_PRIVATE_KEY")) == key.raw
    assert decoded.get_attr("WGDEVICE_A_LISTEN_PORT") == port
    assert decoded.get_attr("WGDEVICE_A_FWMARK") == fwmark


@given(devices(), st.integers(1, 4))
def test_we_read_from_pyroute2s_dump_what_it_meant_in_any_number_of_parts(
    device: Device, allowed_per_part: int
) -> None:
    parts = encode_dump(device, allowed_per_part)

    assert wireguard_netlink.parse_device(parts) == device


@given(st.lists(devices(), min_size=1, max_size=3))
def test_we_read_from_a_daemons_answers_what_they_meant(several: list[Device]) -> None:
    known: dict[str, wireguard_uapi.Parsed] = {}
    for device in [*several, several[0]]:
        text = "".join(f"{line}\n" for line in answer(device))
        assert wireguard_uapi.parse_device(text) == device
        again = [wireguard_uapi.parse_device(text, known) for _ in range(2)]
        assert again == [device, device]
        assert all(again[0].peers[key] is again[1].peers[key] for key in device.peers)


@pytest.mark.parametrize("family", ["4", "6"])
@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 5000])
def test_a_peer_with_many_prefixes_spans_messages_below_the_limit(family: str, count: int) -> None:
    four = frozenset(IPv4Network((i << 8, 24)) for i in range(count))
    six = frozenset(IPv6Network((i << 64, 64)) for i in range(count))
    many: frozenset[Prefix] = four if family == "4" else six
    change = PeerChange(PublicKey(b"k" * 32), add=many, keepalive=7)

    bodies = list(pack_peers(NAME, [change, PeerChange(PublicKey(b"l" * 32), remove=True)]))

    entries = [entry for body in bodies for entry in decode_peers(body)]
    assert all(len(body) <= MESSAGE_LIMIT for body in bodies)
    assert {prefix for entry in entries for prefix in entry.get("add", ())} == set(map(str, many))
    assert next(entry["keepalive"] for entry in entries) == 7
    assert sum("keepalive" in entry for entry in entries) == 1
    assert entries[-1]["remove"]


def test_a_thousand_peers_take_few_messages_below_the_limit() -> None:
    changes = [
        PeerChange(
            PublicKey(os.urandom(32)),
            add=frozenset({IPv4Network((i, 32)), IPv6Network((i, 128))}),
            endpoint=Endpoint(IPv6Address(i), 51820),
            keepalive=25,
            preshared_key=PresharedKey(b"s" * 32),
        )
        for i in range(1000)
    ]

    bodies = list(pack_peers(NAME, changes))

    assert max(map(len, bodies)) <= MESSAGE_LIMIT
    assert len(bodies) == 4
    assert [entry["key"] for body in bodies for entry in decode_peers(body)] == [
        change.key for change in changes
    ]


def test_the_daemon_is_told_the_same_as_the_kernel() -> None:
    change = PeerChange(
        PublicKey(b"k" * 32),
        add=frozenset({IPv4Network("10.0.0.0/8")}),
        drop=frozenset({IPv6Network("fd00::/64")}),
        endpoint=Endpoint.parse("[2001:db8::1]:51820"),
        keepalive=0,
        preshared_key=PresharedKey(bytes(32)),
    )

    lines = list(format_peers([change, PeerChange(PublicKey(b"l" * 32), remove=True)]))

    assert lines == [
        "public_key=" + "6b" * 32,
        "preshared_key=" + "00" * 32,
        "endpoint=[2001:db8::1]:51820",
        "persistent_keepalive_interval=0",
        "allowed_ip=10.0.0.0/8",
        "allowed_ip=-fd00::/64",
        "public_key=" + "6c" * 32,
        "remove=true",
    ]


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_arbitrary_bytes_are_parsed_or_refused(parts: list[bytes]) -> None:
    for parse in (wireguard_netlink.parse_device, lambda parts: parse_link(b"".join(parts))):
        try:
            parse(parts)
        except KernelRefused as error:
            assert error.errno == errno.EBADMSG


@given(devices(), st.data())
def test_a_dump_with_damaged_bytes_is_parsed_or_refused(
    device: Device, data: st.DataObject
) -> None:
    parts = [bytearray(part) for part in encode_dump(device, 2)]
    part = data.draw(st.sampled_from(parts))
    for _ in range(data.draw(st.integers(1, 4))):
        part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    del part[data.draw(st.integers(0, len(part))) :]

    try:
        wireguard_netlink.parse_device(map(bytes, parts))
    except KernelRefused as error:
        assert error.errno == errno.EBADMSG


uapi_words = st.sampled_from(
    [
        "public_key",
        "private_key",
        "preshared_key",
        "endpoint",
        "allowed_ip",
        "listen_port",
        "fwmark",
    ]
)
uapi_values = (
    st.text(string.printable, max_size=20)
    | st.binary(min_size=30, max_size=33).map(bytes.hex)
    | st.sampled_from(["1", "-1", "10.0.0.1/8", "10.0.0.0/8", "[::]:5", "1.2.3.4:99999", "²"])
)


@given(st.lists(st.tuples(uapi_words, uapi_values).map("=".join), max_size=6).map("\n".join))
@example("allowed_ip=10.0.0.0/8")
@example("private_key=" + "00" * 33)
def test_an_arbitrary_answer_is_parsed_or_refused(text: str) -> None:
    try:
        wireguard_uapi.parse_device(text)
    except KernelRefused as error:
        assert error.errno == errno.EBADMSG


@given(st.binary(min_size=32, max_size=32))
def test_a_malformed_answer_does_not_leak_the_key_it_holds(key: bytes) -> None:
    with pytest.raises(KernelRefused) as refusal:
        wireguard_uapi.parse_device(f"private_key={key.hex()}ff\n")

    assert key.hex() not in str(refusal.value)


def decode(body: bytes) -> Any:
    decoded = wgmsg(message(30, 0, body))
    decoded.decode()
    return decoded


def decode_peers(body: bytes) -> list[dict[str, Any]]:
    return [describe_entry(entry) for entry in decode(body).get_attr("WGDEVICE_A_PEERS")]


def describe_entry(entry: Any) -> dict[str, Any]:
    """Render a peer as pyroute2 sees it; what is absent has no key."""
    endpoint = entry.get_attr("WGPEER_A_ENDPOINT")
    preshared = entry.get_attr("WGPEER_A_PRESHARED_KEY")
    allowed = entry.get_attr("WGPEER_A_ALLOWEDIPS") or []
    flags = [any(kind == REMOVE_ME for kind, _ in ip["attrs"]) for ip in allowed]
    words = {
        "key": PublicKey(base64.b64decode(entry.get_attr("WGPEER_A_PUBLIC_KEY"))),
        "remove": entry.get_attr("WGPEER_A_FLAGS") == 1,
        "endpoint": endpoint and (endpoint["addr"], endpoint["port"]),
        "keepalive": entry.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL"),
        "preshared": preshared and base64.b64decode(preshared),
        "add": {ip["addr"] for ip, gone in zip(allowed, flags, strict=True) if not gone},
        "drop": {ip["addr"] for ip, gone in zip(allowed, flags, strict=True) if gone},
    }
    return without_absent(words)


def describe(change: PeerChange) -> dict[str, Any]:
    if change.remove:
        return {"key": change.key, "remove": True}
    words = {
        "key": change.key,
        "endpoint": change.endpoint and (as_libc(change.endpoint.address), change.endpoint.port),
        "keepalive": change.keepalive,
        "preshared": change.preshared_key and change.preshared_key.raw,
        "add": {f"{as_libc(ip.network_address)}/{ip.prefixlen}" for ip in change.add},
        "drop": {f"{as_libc(ip.network_address)}/{ip.prefixlen}" for ip in change.drop},
    }
    return without_absent(words)


def without_absent(words: dict[str, Any]) -> dict[str, Any]:
    return {key: word for key, word in words.items() if (word == 0 and word is not False) or word}


def as_libc(address: IPv4Address | IPv6Address) -> str:
    """Return the spelling of inet_ntop, which shows some IPv6 addresses with an IPv4 tail."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return socket.inet_ntop(family, address.packed)


def encode_dump(device: Device, allowed_per_part: int) -> list[bytes]:
    """Let pyroute2 write what the kernel would: peers cut anywhere, device attributes first."""
    own: list[list[object]] = [["WGDEVICE_A_IFNAME", NAME]]
    if device.private_key is not None:
        own.append(["WGDEVICE_A_PRIVATE_KEY", base64.b64encode(device.private_key.raw)])
    own.append(["WGDEVICE_A_LISTEN_PORT", device.listen_port])
    own.append(["WGDEVICE_A_FWMARK", device.fwmark])
    parts = [encode_part(own)]
    for key, peer in device.peers.items():
        attributes = peer_attributes(key, peer, device.status[key])
        allowed = [allowed_attributes(prefix) for prefix in peer.allowed_ips]
        for start in range(0, max(1, len(allowed)), allowed_per_part):
            piece = allowed[start : start + allowed_per_part]
            entry = [*attributes, ["WGPEER_A_ALLOWEDIPS", [{"attrs": one} for one in piece]]]
            parts.append(encode_part([["WGDEVICE_A_PEERS", [{"attrs": entry}]]]))
            attributes = attributes[:1]
    return parts


def encode_part(attributes: Sequence[object]) -> bytes:
    part = wgmsg()
    part["cmd"], part["version"], part["attrs"] = 0, 1, attributes
    part.encode()
    return bytes(part.data)[16:]


def peer_attributes(key: PublicKey, peer: Peer, status: PeerStatus) -> list[list[object]]:
    preshared = peer.preshared_key.raw if peer.preshared_key else bytes(32)
    time = {"tv_sec": int(status.last_handshake), "tv_nsec": 0}
    attributes: list[list[object]] = [
        ["WGPEER_A_PUBLIC_KEY", base64.b64encode(key.raw)],
        ["WGPEER_A_PRESHARED_KEY", base64.b64encode(preshared)],
        ["WGPEER_A_LAST_HANDSHAKE_TIME", time],
        ["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", peer.keepalive],
        ["WGPEER_A_RX_BYTES", status.received],
        ["WGPEER_A_TX_BYTES", status.sent],
        ["WGPEER_A_PROTOCOL_VERSION", 1],
    ]
    if peer.endpoint is not None:
        place = {"addr": str(peer.endpoint.address), "port": peer.endpoint.port}
        attributes.append(["WGPEER_A_ENDPOINT", place])
    return attributes


def allowed_attributes(prefix: IPv4Network | IPv6Network) -> list[list[object]]:
    return [
        ["WGALLOWEDIP_A_CIDR_MASK", prefix.prefixlen],
        ["WGALLOWEDIP_A_FAMILY", 2 if prefix.version == 4 else 10],
        ["WGALLOWEDIP_A_IPADDR", prefix.network_address.packed],
    ]


def answer(device: Device) -> list[str]:
    """Return the lines wireguard-go would answer `get=1` with; it leaves out what is zero."""
    lines = [f"private_key={device.private_key.raw.hex()}"] if device.private_key else []
    lines += [f"listen_port={device.listen_port}"] if device.listen_port else []
    lines += [f"fwmark={device.fwmark}"] if device.fwmark else []
    for key, peer in device.peers.items():
        status = device.status[key]
        preshared = peer.preshared_key.raw if peer.preshared_key else bytes(32)
        lines += [f"public_key={key.raw.hex()}", f"preshared_key={preshared.hex()}"]
        lines += ["protocol_version=1"]
        lines += [f"endpoint={peer.endpoint}"] if peer.endpoint else []
        lines += [f"last_handshake_time_sec={int(status.last_handshake)}"]
        lines += ["last_handshake_time_nsec=0", f"tx_bytes={status.sent}"]
        lines += [f"rx_bytes={status.received}", f"persistent_keepalive_interval={peer.keepalive}"]
        lines += [f"allowed_ip={prefix}" for prefix in peer.allowed_ips]
    return lines
