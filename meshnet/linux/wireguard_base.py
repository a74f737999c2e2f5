"""Driver. What both real backends do alike: whose a device is, order of changes, taking away.

**Whose it is.** A device with our alias is ours. One without alias, key and peers was made and
not yet marked when an agent died: `create` takes it over. Anything else under the name is left
alone with a Conflict.

**Taking a prefix away** from a live peer without replacing its list. Recent WireGuard (Linux 6.16,
wireguard-go of 2025) can remove one allowed IP. Where it cannot, the prefix is given to a parking
peer, which moves it in one step and leaves all others of the live peer alone, and then the
parking peer is removed with all it holds, in the same message. Its key is a hash, so no private
key to it is known to anybody. What WireGuard can do is found out by trying and looking: an old
one refuses with EINVAL, or (very old kernel modules do not check) keeps the prefix.
"""

from __future__ import annotations

import errno
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from meshnet.errors import Conflict, KernelRefused
from meshnet.linux.wireguard import Device, check_once, is_port_free, port_in_use
from meshnet.linux.wireguard_link import Link, find_link, mark_link
from meshnet.model.addresses import Prefix
from meshnet.model.keys import PrivateKey, PublicKey
from meshnet.plan.operations import PeerChange

PARKING = PublicKey(hashlib.sha256(b"meshnet parking peer").digest())
"""Owner, for a moment, of prefixes that are being taken away."""


class RealWireGuard(ABC):
    """A WireGuard that has links. Subclasses carry single steps to it and decide nothing."""

    kind: str
    """Kind of the links, as the kernel names it."""

    @property
    @abstractmethod
    def backend(self) -> str:
        """What this is, for people."""

    def __init__(self) -> None:
        self._removes_singly: bool | None = None

    def create(self, name: str, mtu: int) -> None:
        link = find_link(name)
        if link is None:
            self._make(name)
        else:
            self._claim(name, link)
        mark_link(name, mtu)

    def remove(self, name: str) -> None:
        link = find_link(name)
        if link is not None:
            self._claim(name, link)
            self._destroy(name)

    def read(self, name: str) -> Device | None:
        link = find_link(name)
        if link is None:
            return None
        device = self._claim(name, link)
        return device if link.is_ours else None

    def configure(self, name: str, private_key: PrivateKey, listen_port: int, fwmark: int) -> None:
        if not is_port_free(listen_port) and not self._holds(name, listen_port):
            raise port_in_use(name, listen_port)
        self._set_device(name, private_key, listen_port, fwmark)

    def change_peers(self, name: str, changes: Sequence[PeerChange]) -> None:
        check_once(changes)
        kept = [change for change in changes if not change.remove]
        drops = [PeerChange(change.key, drop=change.drop) for change in kept if change.drop]
        gifts = [replace(change, drop=frozenset()) if change.drop else change for change in kept]
        self._set_peers(name, gifts)
        if drops:
            self._drop(name, drops)
        self._set_peers(name, [change for change in changes if change.remove])

    @abstractmethod
    def _make(self, name: str) -> None:
        """Make a device, not marked yet."""

    @abstractmethod
    def _destroy(self, name: str) -> None:
        """Remove a device that exists."""

    @abstractmethod
    def _fetch(self, name: str) -> Device:
        """Return a device as it is; KernelRefused with ENODEV when there is none."""

    @abstractmethod
    def _set_device(self, name: str, key: PrivateKey, port: int, fwmark: int) -> None:
        """Set a device's own attributes; the port is known to be free or the device's."""

    @abstractmethod
    def _set_peers(self, name: str, changes: Sequence[PeerChange]) -> None:
        """Apply changes in order; `drop` removes singly, which may be refused with EINVAL."""

    @abstractmethod
    def _holds(self, name: str, port: int) -> bool:
        """Tell whether the device's own socket is bound to `port`."""

    def _claim(self, name: str, link: Link) -> Device:
        """Return the device when it is ours or nobody's yet, else raise Conflict."""
        if link.kind == self.kind and link.is_ours:
            return self._fetch(name)
        if link.kind == self.kind and not link.alias:
            device = self._fetch_virgin(name)
            if device is not None:
                return device
        kind = link.kind or "network"
        raise Conflict(
            f"link {name} exists and is not ours ({kind} device without our alias)",
            f"Remove it (`ip link del {name}`) or give it another name.",
        )

    def _fetch_virgin(self, name: str) -> Device | None:
        """Return a WireGuard device that nobody has configured yet, else None."""
        try:
            device = self._fetch(name)
        except KernelRefused as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return device if device.private_key is None and not device.peers else None

    def _drop(self, name: str, drops: Sequence[PeerChange]) -> None:
        if self._removes_singly is not False and self._drop_singly(name, drops):
            return
        device = self._fetch(name)
        held = frozenset[Prefix]().union(*(_still_held(device, change) for change in drops))
        if held:
            parking = PeerChange(PARKING, add=held), PeerChange(PARKING, remove=True)
            self._set_peers(name, parking)

    def _drop_singly(self, name: str, drops: Sequence[PeerChange]) -> bool:
        """Drop by WireGuard's own means; return False when it has none."""
        try:
            self._set_peers(name, drops)
        except KernelRefused as error:
            if error.errno != errno.EINVAL:
                raise
            self._removes_singly = False
            return False
        if self._removes_singly is None:
            device = self._fetch(name)
            self._removes_singly = not any(_still_held(device, change) for change in drops)
        return self._removes_singly


def _still_held(device: Device, change: PeerChange) -> frozenset[Prefix]:
    peer = device.peers.get(change.key)
    return change.drop & peer.allowed_ips if peer else frozenset()
