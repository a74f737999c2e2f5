"""Shell. The administrator's side of `admin_api`, for the command line: http.client and msgspec."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from meshnet.coordinator import admin_api
from meshnet.coordinator.admin_api import (
    Done,
    NetworkInfo,
    NodeInfo,
    Status,
    TokenInfo,
    TokenMade,
    TokenRequest,
)
from meshnet.errors import BadInput, Refused, Unavailable
from meshnet.model.statements import StaticRecord
from meshnet.wire import codec
from meshnet.wire.api import NetworkRequest, Problem, error_from

T = TypeVar("T")
ANSWER_SECONDS = 30.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("coordinator", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class AdminClient:
    """Speaks with the coordinator on this machine through its socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create_token(self, ttl: int, uses: int = 1, tags: tuple[str, ...] = ()) -> TokenMade:
        """Make a token that is good for `uses` joins within `ttl` seconds."""
        request = TokenRequest(ttl, uses, tags)
        return self._ask("POST", admin_api.TOKENS, TokenMade, request)

    def tokens(self) -> list[TokenInfo]:
        return self._ask("GET", admin_api.TOKENS, list[TokenInfo])

    def revoke_token(self, token_id: str) -> None:
        self._ask("DELETE", f"{admin_api.TOKENS}/{_part(token_id)}", Done)

    def nodes(self) -> list[NodeInfo]:
        return self._ask("GET", admin_api.NODES, list[NodeInfo])

    def revoke_node(self, name: str) -> None:
        """Take a node's membership away, by its name or id."""
        self._ask("DELETE", f"{admin_api.NODES}/{_part(name)}", Done)

    def networks(self) -> list[NetworkInfo]:
        return self._ask("GET", admin_api.NETWORKS, list[NetworkInfo])

    def create_network(self, request: NetworkRequest) -> NetworkInfo:
        return self._ask("POST", admin_api.NETWORKS, NetworkInfo, request)

    def remove_network(self, name: str) -> None:
        self._ask("DELETE", f"{admin_api.NETWORKS}/{_part(name)}", Done)

    def records(self) -> list[StaticRecord]:
        return self._ask("GET", admin_api.RECORDS, list[StaticRecord])

    def set_record(self, record: StaticRecord) -> None:
        """Set a DNS RRset, in place of one of the same name and type."""
        self._ask("POST", admin_api.RECORDS, Done, record)

    def remove_record(self, name: str, kind: str) -> None:
        self._ask("DELETE", f"{admin_api.RECORDS}/{_part(name)}/{_part(kind)}", Done)

    def status(self) -> Status:
        return self._ask("GET", admin_api.STATUS, Status)

    def _ask(
        self, method: str, path: str, kind: type[T], request: msgspec.Struct | None = None
    ) -> T:
        body = None if request is None else codec.encode(request)
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, text = response.status, response.read()
        except PermissionError as error:
            raise Refused(
                f"{self._path} may not be opened by this user", "Be root, for example by sudo."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"no coordinator answers at {self._path}: {error}",
                "Run this on the coordinator's machine, with `meshnet coordinator run` there.",
            ) from error
        finally:
            connection.close()
        if status >= 300:
            raise error_from(_problem(text, status), status)
        return codec.decode(text, kind, "the coordinator's answer")


def _part(text: str) -> str:
    if not text:
        raise BadInput("an empty name names nothing")
    return quote(text, safe="")


def _problem(text: bytes, status: int) -> Problem:
    try:
        return codec.decode(text, Problem, "error")
    except BadInput:
        return Problem("", f"the coordinator answered with HTTP status {status}")
