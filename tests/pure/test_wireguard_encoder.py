"""Our messages for WireGuard beside those that pyroute2's encoder makes of the same wishes.

Both are taken apart into a tree of attributes by a third reader, below, that knows nothing but
netlink's layout (netlink(7)). The order of attributes is free, that of a list is not.
"""

from __future__ import annotations

import base64
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.generic.wireguard import wgmsg

from meshnet.linux.wireguard_netlink import pack_device, pack_peers
from meshnet.model.keys import PrivateKey
from meshnet.plan.operations import PeerChange
from tests.pure.test_wireguard_packer import (
    NAME,
    allowed_attributes,
    endpoints,
    keys,
    prefix_sets,
    preshared_keys,
    private_keys,
    removed,
    seconds,
)

TYPE = 0x3FFF
"""The bits of an attribute's type that are not flags."""
PEERS, ALLOWED = 8, 9
REMOVE_PEER = 1

given_peers = st.builds(
    PeerChange,
    key=keys,
    add=prefix_sets,
    endpoint=st.none() | endpoints,
    keepalive=st.none() | seconds,
    preshared_key=st.none() | preshared_keys,
)
"""pyroute2 does not know how one prefix is taken away."""


@given(st.lists(given_peers | removed, min_size=1, max_size=6))
def test_changes_of_peers_are_packed_as_pyroute2_packs_them(changes: list[PeerChange]) -> None:
    (body,) = pack_peers(NAME, changes)

    theirs = encoded([["WGDEVICE_A_PEERS", [{"attrs": wish_of(change)} for change in changes]]])

    assert tree(body[4:]) == tree(theirs)


@given(private_keys, st.integers(1, 65535), st.integers(0, 2**32 - 1))
def test_a_device_is_packed_as_pyroute2_packs_it(key: PrivateKey, port: int, fwmark: int) -> None:
    theirs = encoded(
        [
            ["WGDEVICE_A_PRIVATE_KEY", base64.b64encode(key.raw)],
            ["WGDEVICE_A_LISTEN_PORT", port],
            ["WGDEVICE_A_FWMARK", fwmark],
        ]
    )

    assert tree(pack_device(NAME, key, port, fwmark)[4:]) == tree(theirs)


def wish_of(change: PeerChange) -> list[list[Any]]:
    """Say a change of a peer in pyroute2's words."""
    words: list[list[Any]] = [["WGPEER_A_PUBLIC_KEY", base64.b64encode(change.key.raw)]]
    if change.remove:
        return [*words, ["WGPEER_A_FLAGS", REMOVE_PEER]]
    if change.preshared_key is not None:
        words.append(["WGPEER_A_PRESHARED_KEY", base64.b64encode(change.preshared_key.raw)])
    if change.endpoint is not None:
        place = {"addr": str(change.endpoint.address), "port": change.endpoint.port}
        words.append(["WGPEER_A_ENDPOINT", place])
    if change.keepalive is not None:
        words.append(["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", change.keepalive])
    if change.add:
        allowed = [{"attrs": allowed_attributes(prefix)} for prefix in change.add]
        words.append(["WGPEER_A_ALLOWEDIPS", allowed])
    return words


def encoded(attributes: list[list[Any]]) -> bytes:
    """Have pyroute2 encode the attributes of a message; return what follows both headers."""
    message = wgmsg()
    message["cmd"], message["version"] = 1, 1
    message["attrs"] = [["WGDEVICE_A_IFNAME", NAME], *attributes]
    message.encode()
    return bytes(message.data)[20:]


def tree(body: bytes) -> dict[int, object]:
    """Return a message's attributes by type."""
    found: dict[int, object] = dict(attributes_of(body))
    peers = found.pop(PEERS, b"")
    assert isinstance(peers, bytes)
    return found | {PEERS: [peer_of(entry) for _, entry in attributes_of(peers)]}


def peer_of(entry: bytes) -> dict[int, object]:
    """Return a peer's attributes by type, its allowed IPs as a set of their own attributes."""
    values = dict(attributes_of(entry))
    allowed = [frozenset(attributes_of(one)) for _, one in attributes_of(values.pop(ALLOWED, b""))]
    return {**values, ALLOWED: frozenset(allowed)}


def attributes_of(data: bytes) -> list[tuple[int, bytes]]:
    """Take a row of attributes apart: length and type of 16 bits each, padded to four bytes."""
    found = []
    while data:
        length, kind = struct.unpack_from("=HH", data)
        found.append((kind & TYPE, data[4:length]))
        data = data[(length + 3) & ~3 :]
    return found
