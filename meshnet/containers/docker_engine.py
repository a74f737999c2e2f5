"""Shell. Docker's own API, as far as a plugin asks it: which container is it, who is still there.

Inside a driver's handler `/networks/ID` and `/containers/json` answer at once, while
`/containers/ID/json` waits for the handler itself. While dockerd starts nothing answers yet, so
every question has a short limit, and no answer is an answer.
"""

from __future__ import annotations

import json
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from meshnet.cli.local import UnixConnection
from meshnet.errors import BadInput, NotFound, Unavailable

LIMIT = 2.0
"""Seconds to wait for dockerd."""


class Endpoint(msgspec.Struct, frozen=True, rename="pascal"):
    """An endpoint of a network as Docker lists it."""

    name: str = ""
    endpoint_id: str = msgspec.field(name="EndpointID", default="")


class NetworkState(msgspec.Struct, frozen=True, rename="pascal"):
    """A network as Docker has it."""

    containers: dict[str, Endpoint] = {}


class Container(msgspec.Struct, frozen=True, rename="pascal"):
    """A container as Docker lists it."""

    labels: dict[str, str] | None = None


class Engine:
    """dockerd, by its socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def endpoints(self, network_id: str) -> dict[str, str]:
        """Return the endpoints of a network with their containers' names; none when it is gone."""
        try:
            state = msgspec.convert(self._get(f"/networks/{network_id}"), NetworkState)
        except NotFound:
            return {}
        except msgspec.ValidationError as error:
            raise BadInput(f"Docker's answer is not valid: {error}") from error
        return {each.endpoint_id: each.name for each in state.containers.values()}

    def labels(self, name: str) -> dict[str, str]:
        """Return the labels of a container, by its name."""
        query = urlencode({"all": 1, "filters": json.dumps({"name": [f"^/{name}$"]})})
        try:
            found = msgspec.convert(self._get(f"/containers/json?{query}"), list[Container])
        except msgspec.ValidationError as error:
            raise BadInput(f"Docker's answer is not valid: {error}") from error
        return (found[0].labels or {}) if found else {}

    def _get(self, target: str) -> Any:
        connection = UnixConnection(self._path, LIMIT)
        try:
            connection.request("GET", target, headers={"Host": "docker"})
            response = connection.getresponse()
            data = response.read()
        except (OSError, HTTPException) as error:
            raise Unavailable(f"dockerd on {self._path} does not answer: {error}") from error
        finally:
            connection.close()
        if response.status == 404:
            raise NotFound(f"dockerd knows no {target}")
        if response.status != 200:
            raise Unavailable(f"dockerd answered {target} with HTTP status {response.status}")
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise BadInput(f"Docker's answer to {target} is no JSON") from error
