"""Driver. Which WireGuard carries this host: the kernel's own, or wireguard-go where it has none.

Chosen by what is there: a device that exists keeps its carrier, so that an agent that restarts
adopts it.
"""

from __future__ import annotations

from meshnet.linux.wireguard import DEVICE, WireGuard
from meshnet.linux.wireguard_link import find_link
from meshnet.linux.wireguard_netlink import KernelWireGuard
from meshnet.linux.wireguard_uapi import WireGuardGo


def pick_backend(device: str = DEVICE) -> WireGuard:
    """Return what carries `device` already, else the kernel's WireGuard, else wireguard-go.

    So a module that appears later takes over only after a reboot. Asking for the kernel's makes it
    load the module. Unavailable, with what to install, when there is none at all.
    """
    backend = find_carrier(device)
    # Its name has the version of what is installed, so naming it finds out whether it is.
    assert backend.backend
    return backend


def find_carrier(device: str = DEVICE) -> WireGuard:
    """Return the backend that carries `device`, or else would; it may not be installed.

    For removing, which needs nothing installed.
    """
    link = find_link(device)
    is_carried = link is not None and link.is_ours and link.kind == WireGuardGo.kind
    if not is_carried and KernelWireGuard.is_supported():
        return KernelWireGuard()
    return WireGuardGo()
