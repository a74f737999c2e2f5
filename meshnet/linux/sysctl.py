"""Driver. Kernel settings of a network namespace, below /proc/sys/net of the thread inside it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from meshnet.errors import KernelRefused
from meshnet.linux.netns import inside
from meshnet.linux.rtnetlink import Link

ROOT = Path("/proc/sys/net")

_IPV6 = {"disable_ipv6": "0", "addr_gen_mode": "1", "accept_ra": "0", "accept_redirects": "0"}
"""A link of ours speaks IPv6, makes itself no address, and lets no neighbour tell it a router."""

_IPV4 = {"accept_redirects": "0", "promote_secondaries": "1"}
"""Removing one address must not take others of the same prefix with it."""

_WANTED: dict[int, dict[str, str]] = {socket.AF_INET: _IPV4, socket.AF_INET6: _IPV6}

_NUMBERS: dict[int, dict[str, int]] = {
    socket.AF_INET: {"accept_redirects": 3, "promote_secondaries": 19},
    socket.AF_INET6: {
        "accept_ra": 3,
        "accept_redirects": 4,
        "disable_ipv6": 26,
        "addr_gen_mode": 47,
    },
}
"""The same in what the kernel tells of a link (linux/ip.h from 0, linux/ipv6.h): read from there,
since the look-up of a file takes the longer the more namespaces have a link of that name."""


def speaks_ipv6() -> bool:
    """Say whether this kernel has IPv6; it has none when booted with `ipv6.disable=1`."""
    return (ROOT / "ipv6/conf").exists()


def tracked() -> tuple[int, int] | None:
    """Return how many connections this namespace tracks and how many it may; None: not at all."""
    try:
        count, limit = (
            int((ROOT / f"netfilter/nf_conntrack_{name}").read_text()) for name in ("count", "max")
        )
    except (OSError, ValueError):
        return None
    return count, limit


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


def is_quiet(link: Link) -> bool:
    """Say whether a link has the settings of `quiet`; what the kernel lacks is passed over."""
    return all(
        values[number : number + 1] in ((), (int(_WANTED[family][key]),))
        for family, values in link.settings.items()
        for key, number in _NUMBERS[family].items()
    )


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
