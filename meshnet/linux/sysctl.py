"""Driver. Kernel settings of a network namespace, below /proc/sys/net of the thread inside it."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from meshnet.errors import KernelRefused
from meshnet.linux.netns import inside

ROOT = Path("/proc/sys/net")

_IPV6 = {"disable_ipv6": "0", "addr_gen_mode": "1", "accept_ra": "0", "accept_redirects": "0"}
"""A link of ours speaks IPv6, makes itself no address, and lets no neighbour tell it a router."""

_IPV4 = {"accept_redirects": "0", "promote_secondaries": "1"}
"""Removing one address must not take others of the same prefix with it."""


def set_all(space: int, values: Mapping[str, str]) -> None:
    """Set those that differ, by their path below /proc/sys/net.

    One this kernel does not have (no IPv6, no bridge netfilter) is passed over: there is nothing
    to switch then.
    """
    inside(space, "set kernel settings", lambda: _set_all(values))


def are_set(space: int, values: Mapping[str, str]) -> bool:
    """Say whether all have these values; one this kernel does not have is passed over."""
    return inside(space, "read kernel settings", lambda: all(map(_is_set, values.items())))


def quiet(name: str) -> dict[str, str]:
    """Return the settings for one link of ours."""
    return {f"ipv6/conf/{name}/{key}": value for key, value in _IPV6.items()} | {
        f"ipv4/conf/{name}/{key}": value for key, value in _IPV4.items()
    }


def _is_set(setting: tuple[str, str]) -> bool:
    """Say whether one is as it should be; by bare calls, since there are thirty in
    every audit and fifteen in every port."""
    key, value = setting
    try:
        descriptor = os.open(f"{ROOT}/{key}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        return os.read(descriptor, 64).strip() == value.encode()
    finally:
        os.close(descriptor)


def _set_all(values: Mapping[str, str]) -> None:
    for key, value in values.items():
        try:
            if not _is_set((key, value)):
                (ROOT / key).write_text(value)
        except OSError as error:
            raise KernelRefused(
                f"set {ROOT}/{key} to {value}: {error.strerror}",
                error.errno or errno.EIO,
                "The agent needs /proc/sys/net to be writable.",
            ) from error
