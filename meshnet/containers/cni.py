"""Face. `meshnet-cni`, the CNI plugin: carries a call to the agent, and prints what it answers.

A runtime starts it for every container, several times, so it imports nothing but what the
interpreter brings with it: `socket` alone would double its time. Where the agent is elsewhere or
not there, `cni_alone` takes over.
"""

from __future__ import annotations

import sys
from _socket import AF_UNIX, SOCK_STREAM, socket
from posix import environ

SOCKET = "/run/meshnet/agent.sock"
TIMEOUT = 60.0
"""Seconds to wait for the agent. An attachment on a busy machine takes a few."""

Environment = dict[bytes, bytes]


class BrokenOff(Exception):
    """The agent took the call and gave no answer to it."""


def run() -> int:
    """Carry out the call that environment and standard input hold; return the exit status."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    try:
        if b"runDir" in data:
            raise FileNotFoundError
        status, output = ask(SOCKET, environ, data)
    except (OSError, BrokenOff) as error:
        from meshnet.containers.cni_alone import answer

        status, output = answer(environ, data, error if type(error) is BrokenOff else None)
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    return status


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


if __name__ == "__main__":
    sys.exit(run())
