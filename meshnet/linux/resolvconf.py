"""Driver. /etc/resolv.conf: our server as the first, on a host whose administrator asked for it.

    # meshnet: kept by `meshnet dns host file`
    nameserver 10.213.0.5
    # meshnet: end
    nameserver 192.0.2.53            what was there stays, and is asked when we do not answer

The two comments are our mark: what lies between them is ours, all else is never touched. Source:
resolv.conf(5); servers are asked in order, the next when one does not answer.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

from meshnet.errors import Conflict, Unavailable
from meshnet.linux.resolved import STUB

PATH = Path("/etc/resolv.conf")
FIRST = "# meshnet: kept by `meshnet dns host file`"
LAST = "# meshnet: end"


def nameservers(text: str) -> list[str]:
    """Return the servers that a resolv.conf names, in order; what is no address is left out."""
    words = [line.split() for line in text.splitlines()]
    named = [line[1] for line in words if len(line) >= 2 and line[0] == "nameserver"]
    return [server for server in named if _is_address(server)]


def with_ours(text: str, servers: Iterable[str]) -> str:
    """Return a resolv.conf with exactly these servers of ours ahead of everything."""
    block = [FIRST, *(f"nameserver {server}" for server in servers), LAST]
    return "\n".join(block) + "\n" + without_ours(text)


def without_ours(text: str) -> str:
    """Return a resolv.conf without what is ours. A block that lost its end is its first line."""
    lines = text.splitlines(keepends=True)
    bare = [line.rstrip("\r\n") for line in lines]
    while FIRST in bare:
        start = bare.index(FIRST)
        end = bare.index(LAST, start) if LAST in bare[start:] else start
        del lines[start : end + 1], bare[start : end + 1]
    return "".join(lines)


def read(path: Path = PATH) -> str:
    """Return the file's text, '' where there is none."""
    try:
        return path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error


def put(servers: Sequence[str], path: Path = PATH) -> bool:
    """Have the file name `servers` first; return whether it had to be changed.

    Conflict when systemd-resolved keeps the file: it would be written over, and is asked otherwise.
    """
    text = read(path)
    if STUB in nameservers(text):
        raise Conflict(
            f"{path} belongs to systemd-resolved",
            "Let it be asked instead: `meshnet dns host auto`.",
        )
    return _change(path, text, with_ours(text, servers))


def remove(path: Path = PATH) -> bool:
    """Take what is ours out of the file; return whether there was something."""
    text = read(path)
    return _change(path, text, without_ours(text))


def _change(path: Path, text: str, wish: str) -> bool:
    if wish == text:
        return False
    try:
        _replace(path.resolve(), wish.encode(errors="surrogateescape"))
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be written: {error.strerror}",
            "Mend the file system, or choose `meshnet dns host off`.",
        ) from error
    return True


def _replace(path: Path, data: bytes) -> None:
    """Replace a file by `data` in one step; in place where it is mounted, as in a container."""
    aside = path.with_name(f".{path.name}.meshnet")
    try:
        aside.write_bytes(data)
        aside.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        with path.open("r+b") as file:
            file.write(data)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
