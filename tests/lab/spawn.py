"""Shell. Starting a process inside namespaces, as our direct child.

`nsenter` would stand between us and the process: killing it would leave the process alive. Here
the child itself enters the namespaces before it becomes the command. The pid namespace is the
exception: it holds for children only, so we enter it for the moment of the fork.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
CLONE_NEWPID = 0x20000000

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Where:
    """The namespaces to enter: pid namespace and mount + network namespace, as descriptors.

    `inside` None stays in the lab's own; `fresh` are the CLONE_NEW… flags of those to make anew.
    """

    pids: int
    inside: int
    fresh: int = 0


def spawn(
    where: Where,
    command: Sequence[str],
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` at `where`, in a session of its own, with our working directory."""
    with _children_in(where.pids):
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **_as_installed(), **(env or {})},
            preexec_fn=_entering(where, Path.cwd()),
            start_new_session=True,
        )


def _entering(where: Where, directory: Path) -> Callable[[], None]:
    def enter() -> None:
        _setns(where.inside, CLONE_NEWNS | CLONE_NEWNET)
        if where.fresh and _libc.unshare(where.fresh):
            raise _error("unshare")
        os.chdir(directory)

    return enter


@functools.cache
def _as_installed() -> dict[str, str]:
    """Let Python programs run from compiled modules, as installed ones do, kept out of the tree."""
    directory = tempfile.TemporaryDirectory(prefix=f"meshnet-pycache-{os.getpid()}-")
    atexit.register(directory.cleanup)
    return {"PYTHONPYCACHEPREFIX": directory.name, "PYTHONDONTWRITEBYTECODE": ""}


@contextmanager
def _children_in(pids: int) -> Iterator[None]:
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(pids, CLONE_NEWPID)
        yield
    finally:
        _setns(own, CLONE_NEWPID)
        os.close(own)


def _setns(descriptor: int, kinds: int) -> None:
    if _libc.setns(descriptor, kinds):
        raise _error("setns")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
