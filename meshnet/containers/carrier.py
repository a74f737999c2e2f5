"""Face. The way of a plugin to the agent: one call there, one answer back.

An engine waits for it with every container, so it needs nothing but what the interpreter brings
with it.
"""

from __future__ import annotations

from _socket import AF_UNIX, SOCK_STREAM, socket

SOCKET = "/run/meshnet/agent.sock"
TIMEOUT = 60.0
"""Seconds to wait for the agent. An attachment on a busy machine takes a few."""

Environment = dict[bytes, bytes]


class BrokenOff(Exception):
    """The agent took the call and gave no answer to it."""


def ask(path: str, environment: Environment, data: bytes) -> tuple[int, bytes]:
    """Have the agent on a socket answer; return exit status and output (see `wire.cni`)."""
    return carry(path, b"/v1/cni", pack(environment, data))


def carry(path: str, target: bytes, body: bytes) -> tuple[int, bytes]:
    """Post a call to the agent on a socket; return exit status and output of the plugin.

    OSError when the agent cannot be reached. BrokenOff when it may have acted.
    """
    connection = socket(AF_UNIX, SOCK_STREAM)
    connection.settimeout(TIMEOUT)
    connection.connect(path)
    head = b"POST %b HTTP/1.0\r\nHost: meshnet\r\nContent-Length: %d\r\n\r\n" % (target, len(body))
    said = b""
    try:
        connection.sendall(head + body)
        while more := connection.recv(65536):
            said += more
    except OSError as error:
        raise BrokenOff(str(error)) from error
    head, _, output = said.partition(b"\r\n\r\n")
    status = {b"200": 0, b"400": 1}.get(head[9:12])
    if status is None or b"Content-Length: %d" % len(output) not in head.split(b"\r\n"):
        raise BrokenOff(head[:60].decode(errors="replace"))
    return status, output


def pack(environment: Environment, data: bytes) -> bytes:
    """Return a call as it travels."""
    said = (key + b"=" + value for key, value in environment.items() if key.startswith(b"CNI_"))
    return b"".join(one + b"\0" for one in said) + b"\0" + data
