"""Pure. WireGuard in memory: the port of `meshnet.linux.wireguard` with the kernel's semantics.

It passes the contract suite that the real backends pass. Made for hundreds of agents in one
process: a read costs nothing while nothing changed, and a change makes only the peers it touches
anew. One object is one host.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from meshnet.errors import Conflict
from meshnet.linux.wireguard import Device, check_once, port_in_use, refused
from meshnet.model.addresses import Endpoint, Prefix
from meshnet.model.keys import PresharedKey, PrivateKey, PublicKey
from meshnet.plan.operations import PeerChange
from meshnet.plan.state import Peer, PeerStatus

NEW_PEER = Peer(allowed_ips=frozenset())


class FakeWireGuard:
    """A host's WireGuard. `held_ports` are UDP ports that other programs of the host hold."""

    backend = "fake"

    def __init__(self) -> None:
        self.held_ports: set[int] = set()
        self._devices: dict[str, _FakeDevice] = {}
        self._foreign: set[str] = set()

    def create(self, name: str, mtu: int) -> None:
        self._check_ours(name)
        device = self._devices.setdefault(name, _FakeDevice())
        device.mtu, device.marked = mtu, True

    def remove(self, name: str) -> None:
        self._check_ours(name)
        self._devices.pop(name, None)

    def read(self, name: str) -> Device | None:
        self._check_ours(name)
        device = self._devices.get(name)
        return device.snapshot() if device and device.marked else None

    def configure(self, name: str, private_key: PrivateKey, listen_port: int, fwmark: int) -> None:
        device = self._find(name, "configure")
        others = {other.port for key, other in self._devices.items() if key != name}
        if listen_port in self.held_ports | others:
            raise port_in_use(name, listen_port)
        device.configure(private_key, listen_port, fwmark)

    def change_peers(self, name: str, changes: Sequence[PeerChange]) -> None:
        check_once(changes)
        device = self._find(name, "change peers of")
        kept = [change for change in changes if not change.remove]
        for change in kept:
            device.give(change)
        for change in kept:
            device.take(change.key, change.drop)
        for change in changes:
            if change.remove:
                device.remove_peer(change.key)

    def mtu(self, name: str) -> int:
        return self._find(name, "look up").mtu

    def shake_hands(
        self, name: str, key: PublicKey, at: float, endpoint: Endpoint | None = None
    ) -> None:
        """Let a peer shake hands at time `at`, from `endpoint` when it roamed there."""
        self._find(name, "shake hands on").shake_hands(key, at, endpoint)

    def add_foreign_link(self, name: str) -> None:
        """Let somebody else have a link of this name."""
        self._foreign.add(name)

    def add_unmarked_device(self, name: str) -> None:
        """Leave a device the way an agent does that dies between making and marking it."""
        self._devices[name] = _FakeDevice()

    def has_link(self, name: str) -> bool:
        return name in self._devices or name in self._foreign

    def _check_ours(self, name: str) -> None:
        if name in self._foreign:
            raise Conflict(f"link {name} exists and is not ours", "Give it another name.")

    def _find(self, name: str, what: str) -> _FakeDevice:
        if name not in self._devices:
            raise refused(f"{what} {name}", errno.ENODEV)
        return self._devices[name]


@dataclass(slots=True)
class _FakeDevice:
    mtu: int = 0
    marked: bool = False
    key: PrivateKey | None = None
    public: PublicKey | None = None
    port: int = 0
    fwmark: int = 0
    owners: dict[Prefix, PublicKey] = field(default_factory=dict)
    peers: dict[PublicKey, Peer] = field(default_factory=dict)
    status: dict[PublicKey, PeerStatus] = field(default_factory=dict)
    fresh: Device | None = None

    def snapshot(self) -> Device:
        if self.fresh is None:
            peers, status = dict(self.peers), dict(self.status)
            self.fresh = Device(self.key, self.port, self.fwmark, peers, status)
        return self.fresh

    def configure(self, key: PrivateKey, port: int, fwmark: int) -> None:
        self.fresh = None
        self.port, self.fwmark = port, fwmark
        if key != self.key:
            self.key, self.public = key, key.public
            self.remove_peer(self.public)

    def give(self, change: PeerChange) -> None:
        if change.key == self.public:
            return
        self.fresh = None
        for prefix in change.add:
            owner = self.owners.get(prefix)
            if owner is not None and owner != change.key:
                self.take(owner, frozenset({prefix}))
            self.owners[prefix] = change.key
        peer = self.peers.get(change.key, NEW_PEER)
        self.status.setdefault(change.key, PeerStatus())
        self.peers[change.key] = Peer(
            allowed_ips=peer.allowed_ips | change.add,
            endpoint=change.endpoint or peer.endpoint,
            keepalive=peer.keepalive if change.keepalive is None else change.keepalive,
            preshared_key=_preshared(peer, change),
        )

    def take(self, key: PublicKey, prefixes: frozenset[Prefix]) -> None:
        peer = self.peers.get(key)
        if peer is None or not prefixes & peer.allowed_ips:
            return
        self.fresh = None
        for prefix in prefixes & peer.allowed_ips:
            del self.owners[prefix]
        self.peers[key] = replace(peer, allowed_ips=peer.allowed_ips - prefixes)

    def remove_peer(self, key: PublicKey) -> None:
        peer = self.peers.pop(key, None)
        if peer is not None:
            self.fresh = None
            del self.status[key]
            for prefix in peer.allowed_ips:
                del self.owners[prefix]

    def shake_hands(self, key: PublicKey, at: float, endpoint: Endpoint | None) -> None:
        if key not in self.peers:
            return  # of strangers WireGuard takes no notice
        self.fresh = None
        before = self.status[key]
        self.status[key] = PeerStatus(at, before.received + 92, before.sent + 148)
        if endpoint is not None:
            self.peers[key] = replace(self.peers[key], endpoint=endpoint)


def _preshared(peer: Peer, change: PeerChange) -> PresharedKey | None:
    if change.preshared_key is None:
        return peer.preshared_key
    return change.preshared_key if any(change.preshared_key.raw) else None
