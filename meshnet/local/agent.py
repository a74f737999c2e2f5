"""Shell. The agent, asked over its unix socket.

`http.client` and no more, since this is on the way of every short command. One request a
connection. What the agent refuses comes back as the error it raised; what the socket refuses is
mapped here, once.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import struct
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode

from meshnet.errors import BadInput, MeshnetError, Refused, Unavailable
from meshnet.local.settings import Settings
from meshnet.wire.local import SOCKET, ErrorReply, decode, encode, rebuild

T = TypeVar("T")

TIMEOUT = 60.0
"""Seconds to wait for the agent. An attachment on a busy machine takes a few."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP to a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("meshnet", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Agent:
    """The local API of the agent on this machine."""

    def __init__(self, settings: Settings, timeout: float = TIMEOUT) -> None:
        self._path = settings.run_dir / SOCKET
        self._timeout = timeout

    def process(self) -> int | None:
        """Return a descriptor of the agent's process (pidfd_open(2)), or None when none listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self._path))
                pid, _, _ = struct.unpack(
                    "3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                )
                return os.pidfd_open(pid)
            except ProcessLookupError:
                return None
            except OSError as error:
                mapped = socket_error(self._path, error)
                if isinstance(mapped, Unavailable):
                    return None
                raise mapped from error

    def get(self, path: str, kind: type[T], **query: str) -> T:
        return self._ask("GET", f"{path}?{urlencode(query)}" if query else path, None, kind)

    def post(self, path: str, body: object, kind: type[T]) -> T:
        return self._ask("POST", path, encode(body), kind)

    def delete(self, path: str, kind: type[T], **query: str) -> T:
        target = quote(path)
        return self._ask("DELETE", f"{target}?{urlencode(query)}" if query else target, None, kind)

    def _ask(self, method: str, target: str, body: bytes | None, kind: type[T]) -> T:
        connection = UnixConnection(self._path, self._timeout)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            data = response.read()
        except OSError as error:
            raise socket_error(self._path, error) from error
        except http.client.HTTPException as error:
            raise Unavailable(f"the agent on {self._path} broke off: {error!r}", LOOK) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise _refusal(data, response.status)
        return decode(data, kind, f"the agent's reply to {method} {target}")


LOOK = "See what it logged: `journalctl -u meshnet-agent`."


def _refusal(data: bytes, status: int) -> MeshnetError:
    try:
        return rebuild(decode(data, ErrorReply, "error"))
    except BadInput:
        return Unavailable(f"the agent answered with HTTP status {status}", LOOK)


def socket_error(path: Path, error: OSError) -> MeshnetError:
    """Return what an error of the agent's socket means."""
    if isinstance(error, PermissionError):
        return Refused(f"you may not talk to the agent on {path}", "Run this as root.")
    if isinstance(error, TimeoutError):
        return Unavailable(f"the agent on {path} did not answer in time", LOOK)
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        return Unavailable(
            f"no agent listens on {path}",
            "Join a mesh with `meshnet join`, or start it: `systemctl start meshnet-agent`.",
        )
    if type(error) is OSError and error.errno in (errno.ENAMETOOLONG, None):
        return BadInput(
            f"socket path {path} cannot be used: {error}", "Choose a shorter --run-dir."
        )
    return Unavailable(f"the agent on {path} broke off: {error.strerror or error}", LOOK)
