"""Shell. Docker's own API, as far as a plugin asks it: which container is it, who is still there.

Inside a driver's handler `/networks/ID` and `/containers/json` answer at once, while
`/containers/ID/json` waits for the handler itself. While dockerd starts nothing answers yet, so
every question has a short limit, and no answer is an answer.
"""

from __future__ import annotations

import json
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

from meshnet.containers.docker_protocol import DOCKERS_POOLS, AddressPool, NetworkState
from meshnet.errors import BadInput, Conflict, MeshnetError, NotFound, Unavailable
from meshnet.local.agent import UnixConnection

T = TypeVar("T")

LIMIT, CHANGE_LIMIT = 2.0, 30.0
"""Seconds to wait for dockerd: for an answer, and for a change that calls the driver."""


class Port(msgspec.Struct, frozen=True, rename="pascal"):
    """A container's place on one of Docker's networks; without an endpoint while it is stopped."""

    network_id: str = msgspec.field(name="NetworkID", default="")
    endpoint_id: str = msgspec.field(name="EndpointID", default="")


class Ports(msgspec.Struct, frozen=True, rename="pascal"):
    """Where a container is, by the names of Docker's networks."""

    networks: dict[str, Port] | None = None


class Container(msgspec.Struct, frozen=True, rename="pascal"):
    """A container as Docker lists it."""

    labels: dict[str, str] | None = None
    network_settings: Ports = Ports()

    @property
    def ports(self) -> list[Port]:
        return list((self.network_settings.networks or {}).values())


class Info(msgspec.Struct, frozen=True, rename="pascal"):
    """What Docker says of itself."""

    default_address_pools: list[AddressPool] | None = None


class Complaint(msgspec.Struct, frozen=True):
    """How Docker refuses."""

    message: str = ""


class Engine:
    """dockerd, by its socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def network(self, network_id: str) -> NetworkState:
        """Return a network; NotFound when Docker has none of that id, or not yet."""
        return _read(self._ask("GET", f"/networks/{network_id}"), NetworkState)

    def networks(self, driver: str) -> dict[str, str]:
        """Return the names of a driver's networks, by their ids."""
        query = urlencode({"filters": json.dumps({"driver": [driver]})})
        found = _read(self._ask("GET", f"/networks?{query}"), list[NetworkState])
        return {each.id: each.name for each in found if each.driver == driver}

    def endpoints(self, network_id: str) -> dict[str, str]:
        """Return the endpoints of a network with their containers' names; none when it is gone."""
        try:
            containers = self.network(network_id).containers or {}
        except NotFound:
            return {}
        return {each.endpoint_id: each.name for each in containers.values()}

    def pools(self) -> list[AddressPool]:
        """Return where Docker takes the subnets from that nobody chose."""
        told = _read(self._ask("GET", "/info"), Info).default_address_pools
        return told or list(DOCKERS_POOLS)

    def remove_network(self, network_id: str) -> None:
        """Remove a network; NotFound when it is gone."""
        self._ask("DELETE", f"/networks/{network_id}")

    def create_network(self, spec: dict[str, Any]) -> None:
        """Make a network; Conflict when there is one of that name."""
        self._ask("POST", "/networks/create", spec)

    def container(self, name: str) -> Container:
        """Return a container by its name, one with nothing when there is none."""
        query = urlencode({"all": 1, "filters": json.dumps({"name": [f"^/{name}$"]})})
        found = _read(self._ask("GET", f"/containers/json?{query}"), list[Container])
        return found[0] if found else Container()

    def _ask(self, method: str, target: str, body: object = None) -> Any:
        connection = UnixConnection(self._path, LIMIT if method == "GET" else CHANGE_LIMIT)
        data = None if body is None else msgspec.json.encode(body)
        try:
            headers = {"Host": "docker", "Content-Type": "application/json"}
            connection.request(method, target, data, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException) as error:
            raise Unavailable(f"dockerd on {self._path} does not answer: {error}") from error
        finally:
            connection.close()
        if response.status >= 300:
            raise _refusal(response.status, target, answer)
        try:
            return msgspec.json.decode(answer) if answer else None
        except msgspec.DecodeError as error:
            raise BadInput(f"Docker's answer to {target} is no JSON") from error


def _refusal(status: int, target: str, answer: bytes) -> MeshnetError:
    if status == 404:
        return NotFound(f"dockerd knows no {target}")
    try:
        said = msgspec.json.decode(answer, type=Complaint).message
    except msgspec.DecodeError:
        said = f"HTTP status {status}"
    kind = Conflict if status == 409 else Unavailable
    return kind(f"dockerd refuses {target}: {said[:300]}")


def _read(answer: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise BadInput(f"Docker's answer is not valid: {error}") from error
