"""Driver. WireGuard in the kernel, by generic netlink.

The dialogue (linux/wireguard.h), all attributes nested below a device:

    SET_DEVICE  IFNAME, PRIVATE_KEY?, LISTEN_PORT?, FWMARK?,
                PEERS [ PUBLIC_KEY, FLAGS?, PRESHARED_KEY?, ENDPOINT?, KEEPALIVE?,
                        ALLOWEDIPS [ FAMILY, IPADDR, CIDR_MASK, FLAGS? ] ]
    GET_DEVICE  a dump: the first part has the device's own attributes; a peer whose allowed IPs do
                not fit goes on in the next part under the same key, and so is merged by key

An attribute is at most 64 KiB long, and so are all peers of one message: changes are cut into
entries, an entry with very many allowed IPs into several of the same key, and entries are filled
into messages. A message is applied under the device's lock as a whole, or up to the entry that is
wrong.
"""

from __future__ import annotations

import errno
import functools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from socket import AF_INET, AF_INET6

from meshnet.errors import KernelRefused, MeshnetError, Unavailable
from meshnet.linux.netlink import (
    NETLINK_GENERIC,
    NLA_F_NESTED,
    Netlink,
    attribute,
    attributes,
    iterate_attributes,
    message,
    nested,
)
from meshnet.linux.wireguard import Device
from meshnet.linux.wireguard_base import RealWireGuard
from meshnet.linux.wireguard_link import delete_link, find_link, make_link
from meshnet.model.addresses import Endpoint, Prefix
from meshnet.model.keys import PresharedKey, PrivateKey, PublicKey
from meshnet.plan.operations import PeerChange
from meshnet.plan.state import Peer, PeerStatus

FAMILY = "wireguard"

_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 16, 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 1, 2

_GET_DEVICE, _SET_DEVICE, _VERSION = 0, 1, 1
_IFNAME, _PRIVATE_KEY, _LISTEN_PORT, _FWMARK, _PEERS = 2, 3, 6, 7, 8
_PEER_KEY, _PEER_PSK, _PEER_FLAGS, _PEER_ENDPOINT, _PEER_KEEPALIVE = 1, 2, 3, 4, 5
_PEER_HANDSHAKE, _PEER_RECEIVED, _PEER_SENT, _PEER_ALLOWED = 6, 7, 8, 9
_ALLOWED_FAMILY, _ALLOWED_ADDRESS, _ALLOWED_LENGTH, _ALLOWED_FLAGS = 1, 2, 3, 4
_REMOVE_PEER = 1

_PEERS_BYTES = 60_000
_ALLOWED_PER_ENTRY = 1_000

_CACHED = 4096
"""The same bytes come with every dump, so what is costly to parse is remembered by them."""

_GENL = struct.Struct("=BBxx")
_U16, _U32, _U64 = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=Q")
_TIME = struct.Struct("=qq")
_FAMILY_AND_PORT = struct.Struct("=H2s")
_ALLOWED = {
    4: struct.Struct("=HHHHHxxHH4sHHBxxx"),
    6: struct.Struct("=HHHHHxxHH16sHHBxxx"),
}
_ALLOWED_REMOVED = attribute(_ALLOWED_FLAGS, _U32.pack(1))


class KernelWireGuard(RealWireGuard):
    """WireGuard devices of the current network namespace, in the kernel."""

    backend = "kernel"
    kind = "wireguard"

    @staticmethod
    def is_supported() -> bool:
        """Tell whether the kernel has WireGuard; it loads the module when it is one."""
        try:
            _family_id()
        except Unavailable:
            return False
        return True

    def _make(self, name: str) -> None:
        _family_id()
        make_link(name, self.kind)

    def _destroy(self, name: str) -> None:
        delete_link(name)

    def _fetch(self, name: str) -> Device:
        query = message(_family_id(), 0, _GENL.pack(_GET_DEVICE, _VERSION) + _name(name))
        with Netlink(NETLINK_GENERIC) as netlink:
            return parse_device(netlink.dump(query, f"read WireGuard device {name}"))

    def _set_device(self, name: str, key: PrivateKey, port: int, fwmark: int) -> None:
        what = f"set key, port {port} and fwmark {fwmark} of {name}"
        self._send([pack_device(name, key, port, fwmark)], [what])

    def _set_peers(self, name: str, changes: Sequence[PeerChange]) -> None:
        bodies = list(pack_peers(name, changes))
        self._send(bodies, [f"change peers of {name}, part {i + 1}" for i in range(len(bodies))])

    def _holds(self, name: str, port: int) -> bool:
        # The kernel opens the socket when the link goes up.
        device, link = self._fetch(name), find_link(name)
        return device.listen_port == port and link is not None and link.up

    def _send(self, bodies: Sequence[bytes], names: Sequence[str]) -> None:
        if not bodies:
            return
        family = _family_id()
        with Netlink(NETLINK_GENERIC) as netlink:
            netlink.request([message(family, 0, body) for body in bodies], names)


def pack_device(name: str, key: PrivateKey, port: int, fwmark: int) -> bytes:
    """Return the body of a SET_DEVICE with the device's own attributes."""
    return (
        _GENL.pack(_SET_DEVICE, _VERSION)
        + _name(name)
        + attribute(_PRIVATE_KEY, key.raw)
        + attribute(_LISTEN_PORT, _U16.pack(port))
        + attribute(_FWMARK, _U32.pack(fwmark))
    )


def pack_peers(name: str, changes: Iterable[PeerChange]) -> Iterator[bytes]:
    """Yield the bodies of as many SET_DEVICE messages as `changes` need, in order."""
    head = _GENL.pack(_SET_DEVICE, _VERSION) + _name(name)
    batch: list[bytes] = []
    size = 0
    for change in changes:
        for entry in _entries(change):
            if batch and size + len(entry) > _PEERS_BYTES:
                yield head + nested(_PEERS, *batch)
                batch, size = [], 0
            batch.append(entry)
            size += len(entry)
    if batch:
        yield head + nested(_PEERS, *batch)


def parse_device(parts: Iterable[bytes]) -> Device:
    """Merge the bodies of a dump into one device; KernelRefused with EBADMSG when malformed."""
    own: dict[int, bytes] = {}
    drafts: dict[bytes, _Draft] = {}
    try:
        for part in parts:
            values = attributes(part[_GENL.size :])
            for _, entry in iterate_attributes(values.pop(_PEERS, b"")):
                _merge_peer(drafts, entry)
            own.update(values)
        return _device(own, drafts)
    except (struct.error, ValueError, IndexError, MeshnetError) as error:
        raise KernelRefused(f"malformed WireGuard device: {error}", errno.EBADMSG) from error


@dataclass(slots=True)
class _Draft:
    values: dict[int, bytes]
    allowed: list[bytes] = field(default_factory=list)


def _merge_peer(drafts: dict[bytes, _Draft], entry: bytes) -> None:
    values = attributes(entry)
    allowed = values.pop(_PEER_ALLOWED, b"")
    draft = drafts.setdefault(values.get(_PEER_KEY, b""), _Draft(values))
    draft.allowed.append(allowed)


def _device(own: dict[int, bytes], drafts: dict[bytes, _Draft]) -> Device:
    key = own.get(_PRIVATE_KEY, b"")
    peers: dict[PublicKey, Peer] = {}
    status: dict[PublicKey, PeerStatus] = {}
    for raw, draft in drafts.items():
        public = PublicKey(raw)
        peers[public] = _peer(draft)
        status[public] = _status(draft.values)
    return Device(
        private_key=PrivateKey(key) if any(key) else None,
        listen_port=_number(_U16, own, _LISTEN_PORT),
        fwmark=_number(_U32, own, _FWMARK),
        peers=peers,
        status=status,
    )


def _peer(draft: _Draft) -> Peer:
    preshared = draft.values.get(_PEER_PSK, b"")
    return Peer(
        allowed_ips=_allowed_ips(tuple(draft.allowed)),
        endpoint=_endpoint(draft.values.get(_PEER_ENDPOINT, b"")),
        keepalive=_number(_U16, draft.values, _PEER_KEEPALIVE),
        preshared_key=PresharedKey(preshared) if any(preshared) else None,
    )


def _status(values: dict[int, bytes]) -> PeerStatus:
    seconds, nanoseconds = _TIME.unpack(values.get(_PEER_HANDSHAKE, bytes(16)))
    return PeerStatus(
        last_handshake=seconds + nanoseconds / 1e9,
        received=_number(_U64, values, _PEER_RECEIVED),
        sent=_number(_U64, values, _PEER_SENT),
    )


def _number(form: struct.Struct, values: dict[int, bytes], kind: int) -> int:
    return int(form.unpack(values[kind])[0]) if kind in values else 0


@functools.lru_cache(maxsize=_CACHED)
def _allowed_ips(lists: tuple[bytes, ...]) -> frozenset[Prefix]:
    """Parse a peer's allowed IPs, which may come in several lists."""
    return frozenset(_prefix(data) for one in lists for _, data in iterate_attributes(one))


def _prefix(data: bytes) -> Prefix:
    values = attributes(data)
    (length,) = values.get(_ALLOWED_LENGTH, b"")
    # The kernel clears the host bits itself, so a prefix with some is malformed.
    return ip_network((ip_address(values.get(_ALLOWED_ADDRESS, b"")), length))


@functools.lru_cache(maxsize=_CACHED)
def _endpoint(data: bytes) -> Endpoint | None:
    """Parse a sockaddr; a peer without endpoint has none, or one of family and port 0."""
    if len(data) < 16:
        return None
    family, port = _FAMILY_AND_PORT.unpack_from(data)
    number = int.from_bytes(port, "big")
    if number and family == AF_INET:
        return Endpoint(ip_address(data[4:8]), number)
    if number and family == AF_INET6:
        return Endpoint(ip_address(data[8:24]), number)
    return None


def _entries(change: PeerChange) -> Iterator[bytes]:
    """Yield the entries of one peer: its attributes first, then the rest of its allowed IPs."""
    key = attribute(_PEER_KEY, change.key.raw)
    if change.remove:
        yield nested(0, key, attribute(_PEER_FLAGS, _U32.pack(_REMOVE_PEER)))
        return
    allowed = _allowed(change)
    head = key + _peer_attributes(change)
    first = allowed[:_ALLOWED_PER_ENTRY]
    yield nested(0, head, nested(_PEER_ALLOWED, *first)) if first else nested(0, head)
    for start in range(_ALLOWED_PER_ENTRY, len(allowed), _ALLOWED_PER_ENTRY):
        more = allowed[start : start + _ALLOWED_PER_ENTRY]
        yield nested(0, key, nested(_PEER_ALLOWED, *more))


def _peer_attributes(change: PeerChange) -> bytes:
    data = b""
    if change.preshared_key is not None:
        data += attribute(_PEER_PSK, change.preshared_key.raw)
    if change.endpoint is not None:
        data += attribute(_PEER_ENDPOINT, _sockaddr(change.endpoint))
    if change.keepalive is not None:
        data += attribute(_PEER_KEEPALIVE, _U16.pack(change.keepalive))
    return data


def _sockaddr(endpoint: Endpoint) -> bytes:
    """Return sockaddr_in (16 bytes) or sockaddr_in6 (28 bytes)."""
    port, address = endpoint.port.to_bytes(2, "big"), endpoint.address.packed
    if len(address) == 4:
        return _FAMILY_AND_PORT.pack(AF_INET, port) + address + bytes(8)
    return _FAMILY_AND_PORT.pack(AF_INET6, port) + bytes(4) + address + bytes(4)


def _allowed(change: PeerChange) -> list[bytes]:
    """Return allowed IPs, each ready packed: those to add, then those to remove."""
    packed = [_pack_allowed(prefix, b"") for prefix in change.add]
    return packed + [_pack_allowed(prefix, _ALLOWED_REMOVED) for prefix in change.drop]


def _pack_allowed(prefix: Prefix, flags: bytes) -> bytes:
    address = prefix.network_address.packed
    form, family = _ALLOWED[prefix.version], AF_INET if prefix.version == 4 else AF_INET6
    size = form.size + len(flags)
    values = (_ALLOWED_ADDRESS, address, 5, _ALLOWED_LENGTH, prefix.prefixlen)
    body = form.pack(size, NLA_F_NESTED, 6, _ALLOWED_FAMILY, family, 4 + len(address), *values)
    return body + flags


def _name(name: str) -> bytes:
    return attribute(_IFNAME, name.encode() + b"\0")


def _family_id() -> int:
    """Return the number the kernel gave the family; Unavailable when it has none of the name."""
    try:
        return _resolve_family()
    except KernelRefused as error:
        if error.errno == errno.ENOENT:
            raise Unavailable(
                "the kernel has no WireGuard",
                "Load it (`modprobe wireguard`), or use wireguard-go (`apt install wireguard-go`).",
            ) from error
        raise


@functools.cache
def _resolve_family() -> int:
    name = attribute(_CTRL_ATTR_FAMILY_NAME, FAMILY.encode() + b"\0")
    query = message(_GENL_ID_CTRL, 0, _GENL.pack(_CTRL_CMD_GETFAMILY, 1) + name)
    with Netlink(NETLINK_GENERIC) as netlink:
        bodies = netlink.ask(query, f"resolve generic netlink family {FAMILY}")
    for body in bodies:
        number = attributes(body[_GENL.size :]).get(_CTRL_ATTR_FAMILY_ID)
        if number is not None:
            return int(_U16.unpack(number)[0])
    raise KernelRefused("malformed answer for a generic netlink family", errno.EBADMSG)
