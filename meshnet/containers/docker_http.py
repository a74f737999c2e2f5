"""Shell. The plugin's socket: Docker's plugin protocol, HTTP without a word more than it needs.

Every call is a POST with JSON or with nothing, and its answer has status 200 even when it is an
error; 404 says that a call is not known. A thread a connection: dockerd opens several, and a call
may wait for the agent.

Source: docs.docker.com/engine/extend/plugin_api.
"""

from __future__ import annotations

import logging
import os
import socket
import socketserver
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

import msgspec

from meshnet.containers.docker_protocol import Message, decode
from meshnet.errors import MeshnetError

log = logging.getLogger(__name__)

SOCKET = Path("/run/docker/plugins/meshnet.sock")
BODY_LIMIT = 1 << 20
QUEUE = 128
"""Connections that may wait to be taken: many containers started at once."""

Answer = dict[str, Any]
Calls = Mapping[str, Callable[[Message], Answer]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        try:
            data = self._body()
        except ValueError as error:
            self.close_connection = True
            self._reply(400, _error(f"the request's body cannot be read: {error}"))
            return
        call = cast(Server, self.server).calls.get(self.path.removeprefix("/"))
        if call is None:
            self._reply(404, _error(f"{self.path} is not implemented"))
        else:
            self._reply(200, self._answer(call, data))

    def _body(self) -> bytes:
        """Read the body; ValueError when it is too long or not what HTTP says."""
        if self.headers.get("Transfer-Encoding"):
            return self._chunked()
        size = int(self.headers.get("Content-Length", "0"))
        if not 0 <= size <= BODY_LIMIT:
            raise ValueError(f"{size} bytes")
        return self.rfile.read(size)

    def _chunked(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(32).strip() or b"0", 16):
            if not 0 < len(data) + size <= BODY_LIMIT:
                raise ValueError(f"more than {BODY_LIMIT} bytes")
            data += self.rfile.read(size)
            self.rfile.readline(4)
        self.rfile.readline(4)
        return data

    def _answer(self, call: Callable[[Message], Answer], data: bytes) -> Answer:
        try:
            return call(decode(data))
        except MeshnetError as error:
            log.warning("%s: %s", self.path, error.message)
            return _error(error.whole)
        except Exception as error:  # Docker waits for an answer, and has no use for a traceback.
            log.exception("%s", self.path)
            return _error(f"a mistake in meshnet-docker: {error!r}")

    def _reply(self, status: int, answer: Answer) -> None:
        body = msgspec.json.encode(answer)
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.docker.plugins.v1.2+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "dockerd"

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def _error(text: str) -> Answer:
    """Return an error as both kinds of driver have it: Docker reads another key from each."""
    return {"Err": text, "Error": text}


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """HTTP on the plugin's socket, a thread a connection."""

    daemon_threads = True

    def __init__(self, calls: Calls, listener: socket.socket) -> None:
        super().__init__(str(SOCKET), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.calls = calls


def listener() -> socket.socket:
    """Return the socket that systemd made, or one of our own."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        return socket.socket(fileno=3)
    SOCKET.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    SOCKET.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(SOCKET))
    SOCKET.chmod(0o600)
    made.listen(QUEUE)
    return made
