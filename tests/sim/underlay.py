"""The wires of the simulated mesh: what one node's agent sends another through their tunnels.

A packet passes when WireGuard would let it pass: the sender's fake kernel has a peer that owns the
destination, the receiver's has that sender as a peer owning the source, both know an endpoint or
one of them does, and nobody has cut the link or the node off.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_network

from meshnet.agent.node import TUNNEL
from meshnet.agent.sockets import LINE_LIMIT, Datagrams, Listener, Receive, Serve
from meshnet.linux.wireguard import Device
from meshnet.model.addresses import Prefix
from meshnet.model.keys import PublicKey
from tests.fakes.kernel import FakeKernel


@dataclass
class Place:
    """One node on the wires."""

    address: str
    kernel: FakeKernel
    received: Receive | None = None
    serve: Serve | None = None
    up: bool = True
    cut: set[str] = field(default_factory=set)

    @property
    def device(self) -> Device | None:
        return self.kernel.wireguard.read(TUNNEL)


class Wires:
    """All places, by mesh address."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.delivered = 0

    def passes(self, source: str, destination: str) -> bool:
        """Say whether a packet from one mesh address reaches the other."""
        sender, receiver = self.places.get(source), self.places.get(destination)
        if sender is None or receiver is None or not sender.up or not receiver.up:
            return False
        if destination in sender.cut or source in receiver.cut:
            return False
        return _knows(sender, receiver) and _knows(receiver, sender)

    def deliver(self, source: str, destination: str, data: bytes) -> None:
        if self.passes(source, destination):
            received = self.places[destination].received
            if received is not None:
                self.delivered += 1
                asyncio.get_running_loop().call_soon(received, data, source)


def _knows(one: Place, other: Place) -> bool:
    """Say whether `one` has `other` as the peer that owns its mesh address."""
    here, there = one.device, other.device
    if here is None or there is None or there.private_key is None:
        return False
    peer = here.peers.get(_public(there))
    return peer is not None and _prefix(other.address) in peer.allowed_ips


@functools.cache
def _prefix(address: str) -> Prefix:
    return ip_network(address)


_keys: dict[bytes, PublicKey] = {}


def _public(device: Device) -> PublicKey:
    assert device.private_key is not None
    raw = device.private_key.raw
    if raw not in _keys:
        _keys[raw] = device.private_key.public
    return _keys[raw]


class SimSockets:
    """One node's sockets on the wires; implements `meshnet.agent.sockets.Sockets`."""

    def __init__(self, wires: Wires, kernel: FakeKernel) -> None:
        self._wires = wires
        self._kernel = kernel
        self.place: Place | None = None

    def datagrams(self, address: IPv4Address, received: Receive, bounced: Receive) -> Datagrams:
        self._settle(address).received = received
        return _SimUdp(self._wires, self._settle(address), bounced)

    async def listen(self, address: IPv4Address, serve: Serve) -> Listener:
        self._settle(address).serve = serve
        return _SimListener(self._settle(address))

    async def connect(self, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self.place is not None
        there = self._wires.places.get(address)
        if (
            there is None
            or there.serve is None
            or not self._wires.passes(self.place.address, address)
        ):
            raise ConnectionRefusedError(f"nobody answers at {address}")
        return await _pipe(there.serve, self.place.address)

    def _settle(self, address: IPv4Address) -> Place:
        if self.place is None:
            self.place = Place(str(address), self._kernel)
            self._wires.places[str(address)] = self.place
        return self.place


class _SimUdp:
    def __init__(self, wires: Wires, place: Place, bounced: Receive) -> None:
        self._wires = wires
        self._place = place
        self._bounced = bounced

    def send(self, data: bytes, address: str) -> None:
        self._wires.deliver(self._place.address, address, data)

    def echo(self, data: bytes, address: str) -> None:
        if self._wires.passes(self._place.address, address):
            asyncio.get_running_loop().call_soon(self._bounced, data, address)

    def close(self) -> None:
        self._place.received = None


class _SimListener:
    def __init__(self, place: Place) -> None:
        self._place = place

    def close(self) -> None:
        self._place.serve = None


class _Pair(asyncio.Transport):
    """A transport whose other end is a reader in the same process."""

    def __init__(self, far: asyncio.StreamReader, peer: str) -> None:
        super().__init__({"peername": (peer, 0)})
        self._far = far
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._far.feed_data(bytes(data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            with contextlib.suppress(AssertionError):
                self._far.feed_eof()


async def _pipe(serve: Serve, asker: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    near, far = (asyncio.StreamReader(limit=LINE_LIMIT) for _ in range(2))
    writers = [
        asyncio.StreamWriter(_Pair(reader, asker), asyncio.StreamReaderProtocol(own), own, loop)
        for reader, own in ((far, near), (near, far))
    ]
    task = asyncio.ensure_future(serve(far, writers[1]))
    task.add_done_callback(lambda done: done.exception())
    return near, writers[0]
