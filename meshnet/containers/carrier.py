"""Face. The way of a plugin to the agent: one call there, one answer back.

An engine waits for it with every container, so it needs nothing but what the interpreter brings
with it, not even `__future__`.
"""

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
        while not _is_whole(said) and (more := connection.recv(65536)):
            said += more
    except OSError as error:
        raise BrokenOff(str(error)) from error
    status = {b"200": 0, b"400": 1}.get(said[9:12])
    if status is None or not _is_whole(said):
        raise BrokenOff(said[:60].decode(errors="replace"))
    return status, said.partition(b"\r\n\r\n")[2]


def _is_whole(said: bytes) -> bool:
    """Say whether this is all of an answer; the agent may take its time to hang up."""
    head, gap, output = said.partition(b"\r\n\r\n")
    return bool(gap) and b"Content-Length: %d" % len(output) in head.split(b"\r\n")


def pack(environment: Environment, data: bytes) -> bytes:
    """Return a call as it travels."""
    said = (key + b"=" + value for key, value in environment.items() if key.startswith(b"CNI_"))
    return b"".join(one + b"\0" for one in said) + b"\0" + data
