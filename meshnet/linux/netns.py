"""Driver. Named network namespaces, made the way `ip netns` makes them.

A name is a file in /run/netns over which the namespace is bind-mounted; the namespace lives as
long as that mount, a process in it, a socket of it or a descriptor to it. So taking the name away
does not always end it, and whoever wants the links in it gone must remove them first.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from meshnet.errors import KernelRefused, NotFound
from meshnet.linux.netlink import hint_for, in_namespace

DIRECTORY = Path("/run/netns")

_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_MNT_DETACH = 2
_NSFS_MAGIC = 0x6E736673

_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def own_namespace() -> int:
    """Return a descriptor of the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def named(prefix: str) -> list[str]:
    """Return the names in /run/netns that start with `prefix`, sorted."""
    with suppress(FileNotFoundError):
        return sorted(path.name for path in DIRECTORY.iterdir() if path.name.startswith(prefix))
    return []


def open_named(name: str) -> int | None:
    """Return a descriptor of the namespace, or None when the name leads to none."""
    try:
        descriptor = os.open(DIRECTORY / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(f"open network namespace {name}", error) from error
    if not _is_namespace(descriptor):
        os.close(descriptor)
        return None
    return descriptor


def open_path(path: str, inode: int) -> int:
    """Return a descriptor of the namespace at `path`; NotFound unless it has this inode."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(
            f"network namespace {path} does not exist: {error.strerror}",
            "Detach what was in it; it has ended.",
        ) from error
    found = os.fstat(descriptor).st_ino
    if found == inode and _is_namespace(descriptor):
        return descriptor
    os.close(descriptor)
    raise NotFound(
        f"network namespace {path} is another one now (inode {found}, was {inode})",
        "Detach the old one and attach the new one.",
    )


def create(name: str) -> int:
    """Make a namespace with a name and return a descriptor of it; loopback is still down."""

    def unshare() -> int:
        _call("make a network namespace", _libc.unshare(_CLONE_NEWNET))
        return own_namespace()

    descriptor = in_namespace("/proc/thread-self/ns/net", unshare)
    try:
        bind(name, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def bind(name: str, descriptor: int) -> None:
    """Give a namespace a name; whatever else has the name loses it."""
    _share_directory()
    remove(name)
    path = DIRECTORY / name
    try:
        path.touch(mode=0o444)
    except OSError as error:
        raise _refused(f"name network namespace {name}", error) from error
    source = f"/proc/thread-self/fd/{descriptor}".encode()
    what = f"mount network namespace {name}"
    _call(what, _libc.mount(source, os.fsencode(path), b"none", _MS_BIND, None))


def remove(name: str) -> None:
    """Take a name away; none is fine, too."""
    path = DIRECTORY / name
    _libc.umount2(os.fsencode(path), _MNT_DETACH)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(f"remove network namespace {name}", error) from error


def inside(descriptor: int, what: str, act: Callable[[], T]) -> T:
    """Run `act` in the namespace; map what the operating system refuses."""
    try:
        return in_namespace(descriptor, act)
    except OSError as error:
        raise _refused(what, error) from error


def _share_directory() -> None:
    """Make mounts in /run/netns show in every mount namespace, as `ip netns` does."""
    try:
        DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(f"make {DIRECTORY}", error) from error
    path = os.fsencode(DIRECTORY)
    if not _libc.mount(b"none", path, b"none", _MS_SHARED | _MS_REC, None):
        return
    # It is not a mount point yet, and only mount points can be shared.
    _call(f"mount {DIRECTORY}", _libc.mount(path, path, b"none", _MS_BIND | _MS_REC, None))
    _call(f"share {DIRECTORY}", _libc.mount(b"none", path, b"none", _MS_SHARED | _MS_REC, None))


def _is_namespace(descriptor: int) -> bool:
    """Tell a namespace from the plain file that is left where its mount is gone."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(descriptor, buffer):
        return False
    return ctypes.c_long.from_buffer(buffer).value == _NSFS_MAGIC


def _call(what: str, result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise _refused(what, OSError(code, os.strerror(code)))


def _refused(what: str, error: OSError) -> KernelRefused:
    code = error.errno or errno.EIO
    return KernelRefused(
        f"{what}: {os.strerror(code)} ({errno.errorcode.get(code, code)})", code, hint_for(code)
    )
