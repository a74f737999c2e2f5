"""Shell. One connection to the DNS process, and starting and ending that process.

Requests go one at a time; each has one answer. When the other end is gone, `lost` is set and
whoever waits is told.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import meshnet
from meshnet.dns import control
from meshnet.errors import Refused, Unavailable

ANSWER_SECONDS = 10.0
START_SECONDS = 30.0
"""Seconds for a process to serve: on a starved host the next one would be no quicker."""
END_SECONDS = 2.0
LOOK_SECONDS = 0.005

_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Taken:
    """A listener as the process names it, and its socket if it was handed over."""

    context: str
    transport: str
    address: str
    port: int
    netns: str
    descriptor: int = -1


class Line:
    """A connection that was made, in the running event loop. `pid` is the process there."""

    def __init__(self, path: Path, sock: socket.socket) -> None:
        self.path = path
        self.pid = _peer(sock)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Future[tuple[bytes, list[int]]] | None = None
        self.lost = asyncio.Event()
        self._loop.add_reader(sock.fileno(), self._readable)

    @classmethod
    def open(cls, path: Path) -> Line | None:
        """Return a line to the process that serves `path`, or None when nobody does."""
        sock = _connect(path)
        if sock is None:
            return None
        sock.setblocking(False)
        return cls(path, sock)

    async def request(
        self, operation: bytes, *fields: bytes | str | int, descriptors: Sequence[int] = ()
    ) -> tuple[list[bytes], list[int]]:
        """Return the fields and descriptors of the answer.

        Raise Refused when the process says no, Unavailable when it says nothing.
        """
        return await self.send(control.pack(operation, *fields), descriptors)

    async def send(
        self, message: bytes, descriptors: Sequence[int] = ()
    ) -> tuple[list[bytes], list[int]]:
        """Do the same with a message that is packed already."""
        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    reply, given = await self._exchange(message, descriptors)
            except (OSError, TimeoutError) as error:
                self.close()
                raise Unavailable(f"the DNS process does not answer: {error}") from error
        status, said = control.unpack(reply)
        if status != control.DONE:
            raise Refused(f"the DNS process refused: {b' '.join(said).decode(errors='replace')}")
        return said, given

    async def _exchange(
        self, message: bytes, descriptors: Sequence[int]
    ) -> tuple[bytes, list[int]]:
        if self.lost.is_set():
            raise ConnectionResetError("the line is closed")
        self._waiting = self._loop.create_future()
        try:
            await self._transmit(message, descriptors)
            return await self._waiting
        finally:
            self._waiting = None

    async def _transmit(self, message: bytes, descriptors: Sequence[int]) -> None:
        rights = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        while True:
            try:
                self._sock.sendmsg([message], ancillary)
                return
            except BlockingIOError:
                await asyncio.sleep(LOOK_SECONDS)

    def _readable(self) -> None:
        try:
            space = socket.CMSG_SPACE(4 * 253)
            message, ancillary, _, _ = self._sock.recvmsg(1 << 20, space)
        except BlockingIOError:
            return
        except OSError:
            message, ancillary = b"", []
        given = _descriptors(ancillary)
        if not message:
            self.close()
        elif self._waiting is not None and not self._waiting.done():
            self._waiting.set_result((message, given))
        else:
            _close_all(given)

    def close(self) -> None:
        """Leave the process alone with what it has."""
        if self.lost.is_set():
            return
        self.lost.set()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionResetError("the DNS process closed the line"))

    async def take_listeners(self) -> list[Taken]:
        """Return all listeners with descriptors of our own for their sockets."""
        taken: list[Taken] = []
        while True:
            said, descriptors = await self.request(control.TAKE, len(taken))
            if not said:
                return taken
            found = read_listeners(said)
            taken += (
                Taken(one.context, one.transport, one.address, one.port, one.netns, descriptor)
                for one, descriptor in zip(found, descriptors, strict=True)
            )


def read_listeners(fields: Sequence[bytes]) -> Iterator[Taken]:
    """Yield the listeners that stand in the fields of an answer."""
    for at in range(0, len(fields), 5):
        context, transport, address, port, netns = (field.decode() for field in fields[at : at + 5])
        yield Taken(context, transport, address, int(port), netns)


def spawn(path: Path) -> subprocess.Popen[bytes]:
    """Start a process that serves `path` and outlives us."""
    package = Path(meshnet.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "meshnet.dns", "--control", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(package)},
        start_new_session=True,
    )


async def start(path: Path) -> tuple[Line, subprocess.Popen[bytes]]:
    """Start a process and return a line to it; raise Unavailable when it does not come up."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        child = spawn(path)
    except OSError as error:
        raise Unavailable(f"the DNS process cannot be started: {error}") from error
    started = time.monotonic()
    while (waited := time.monotonic() - started) < START_SECONDS:
        line = Line.open(path)
        if line is not None:
            return line, child
        if child.poll() is not None:
            raise Unavailable(f"the DNS process ended at once with code {child.returncode}")
        await asyncio.sleep(LOOK_SECONDS + waited / 10)  # looking takes time away from its start
    child.kill()
    raise Unavailable(f"the DNS process did not serve {path} within {START_SECONDS:.0f} s")


async def end(line: Line) -> None:
    """End the process at the other end: ask first, then do not ask."""
    with contextlib.suppress(Refused, Unavailable, TimeoutError):
        await line.request(control.STOP)
        async with asyncio.timeout(END_SECONDS):
            await line.lost.wait()
            return
    _kill(line.pid)
    line.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            while (sock := _connect(line.path)) is not None:
                sock.close()
                await asyncio.sleep(LOOK_SECONDS)


def stop_server(path: Path) -> list[str]:
    """End the process that serves `path`, if any; return a line for what was done.

    For `down`, which has no event loop and perhaps no agent.
    """
    sock = _connect(path)
    if sock is None:
        with contextlib.suppress(OSError):
            path.unlink()
        return []
    pid = _peer(sock)
    with sock, contextlib.suppress(OSError):
        sock.settimeout(END_SECONDS)
        sock.send(control.pack(control.STOP))
        while sock.recv(control.MESSAGE_MAX):
            continue
        return [f"end DNS process {pid}"]
    _kill(pid)
    path.unlink(missing_ok=True)
    return [f"kill DNS process {pid}"]


def _connect(path: Path) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(ANSWER_SECONDS)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        return None
    return sock


def _peer(sock: socket.socket) -> int:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[0])


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
