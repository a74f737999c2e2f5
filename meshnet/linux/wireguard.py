"""Driver. The WireGuard port: what a host asks of WireGuard, whoever carries it.

Two implementations run in the field: `wireguard_netlink` drives the kernel's own device,
`wireguard_uapi` drives wireguard-go where the kernel has none. A third is the tests' fake. All
three pass one contract suite, so nothing above this port asks which one it has; `backend` names
it for people.

What an implementation promises, besides the methods' own words:

* A step that is applied twice changes nothing the second time.
* An allowed IP belongs to one peer. Giving it to another takes it from the first in the same
  moment; it is never without an owner in between, whatever the order of the changes given.
* A live peer's list is never replaced as a whole, since packets would be lost meanwhile.
* A refusal is a KernelRefused with the errno, a device that is not ours a Conflict.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from meshnet.errors import BadInput, KernelRefused, Unavailable
from meshnet.model.keys import PrivateKey, PublicKey
from meshnet.plan.operations import PeerChange
from meshnet.plan.state import Peer, PeerStatus

DEVICE = "meshnet0"
"""The name of our device in the field."""


@dataclass(frozen=True, slots=True)
class Device:
    """A WireGuard device as it is. `private_key` None and `listen_port` 0 mean: not set."""

    private_key: PrivateKey | None = None
    listen_port: int = 0
    fwmark: int = 0
    peers: Mapping[PublicKey, Peer] = field(default_factory=dict)
    status: Mapping[PublicKey, PeerStatus] = field(default_factory=dict)


class WireGuard(Protocol):
    """One host's WireGuard devices, in the network namespace of the calling thread."""

    @property
    def backend(self) -> str:
        """`kernel`, or `wireguard-go VERSION`: for people, never to be branched on.

        Unavailable when it is not installed.
        """
        ...

    def create(self, name: str, mtu: int) -> None:
        """Make the device, down and without key or peers, and mark it ours; set its MTU.

        A device of ours is left as it is but for the MTU. One that was made and not yet marked
        (no key, no peer: a crash in between) is taken over. Conflict when `name` belongs to
        anything else; Unavailable when the machine cannot make one.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove the device; none is fine, too. Conflict when it is not ours."""
        ...

    def read(self, name: str) -> Device | None:
        """Return the device as it is now, or None when there is none of ours.

        A device that was made and not yet marked counts as none. Conflict when `name` belongs
        to anything else. `Peer.endpoint` is where the last authentic packet came from.
        """
        ...

    def configure(self, name: str, private_key: PrivateKey, listen_port: int, fwmark: int) -> None:
        """Set key, UDP port and fwmark (0 none). What is so already is not touched.

        KernelRefused with EADDRINUSE when another socket holds the port, also while the device
        is down; then nothing was changed. With ENODEV when there is no device.
        """
        ...

    def change_peers(self, name: str, changes: Sequence[PeerChange]) -> None:
        """Change peers, making those that are missing; each key may be named once.

        Everything that is given comes before everything that is taken away. A prefix is dropped
        only from the peer named. The device's own key is no peer and is passed over.
        """
        ...


def is_port_free(port: int) -> bool:
    """Try whether a UDP socket on all addresses of both families could be bound to `port`."""
    return all(_can_bind(family, port) for family in (socket.AF_INET, socket.AF_INET6))


def find_free_port(preferred: int) -> int:
    """Return the first UDP port from `preferred` upwards that is free in both families."""
    for port in range(preferred, 65536):
        if is_port_free(port):
            return port
    raise Unavailable(
        f"no UDP port from {preferred} to 65535 is free", "Choose a lower port to start from."
    )


def check_once(changes: Sequence[PeerChange]) -> None:
    """Raise BadInput when a peer is named twice: the order of its changes would be lost."""
    if len({change.key.raw for change in changes}) != len(changes):
        raise BadInput("a peer is named twice in one change of peers")


def refused(what: str, code: int, hint: str = "") -> KernelRefused:
    """Return the error for `what` being refused with errno `code`."""
    reason = f"{os.strerror(code)} ({errno.errorcode.get(code, code)})"
    return KernelRefused(f"{what}: {reason}", code, hint)


def port_in_use(name: str, port: int) -> KernelRefused:
    """Return the error for a listen port that another socket holds."""
    return refused(f"set port {port} of {name}", errno.EADDRINUSE, "Take another port.")


def _can_bind(family: socket.AddressFamily, port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(("", port))
    except OSError as error:
        # A host without IPv6 has no IPv6 socket that could be in the way.
        return error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
    return True
