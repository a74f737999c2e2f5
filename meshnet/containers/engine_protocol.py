"""Pure. What a container engine says on its API socket, Docker and podman alike.

    GET /version                     which of the two it is
    GET /events?filters=…            one JSON object a line, for as long as somebody listens
    GET /containers/json             what runs: id, names, labels, networks
    GET /containers/ID/json          one of them: process, health, namespace

    {"Type":"container","Action":"start","Actor":{"ID":"2b68…","Attributes":{"name":"web1",…}}}
    {"Type":"container","Action":"health_status: healthy","Actor":…}     podman: no status
    {"Type":"network","Action":"connect","Actor":{"ID":NETWORK,"Attributes":{"container":"2b68…",…}}}

An engine is asked, never trusted: whatever does not have the expected form is left out, the rest of
the same answer is kept. What podman calls "remove" and "died" is Docker's "destroy" and "die".

Source: docs.docker.com/reference/api/engine and docs.podman.io/en/latest/_static/api.html.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

from meshnet.errors import BadInput

T = TypeVar("T")

SERVICE_LABEL, PORT_LABEL, NETWORK_LABEL = "mesh.service", "mesh.port", "mesh.network"
"""Labels by which a container says what it is on the mesh."""

LINE_LIMIT = 1 << 18
"""Longest line of events in bytes; Docker limits neither the number nor the length of labels."""

ANSWER_LIMIT = 64 << 20
"""Longest answer in bytes: a list of ten thousand containers has about 20 MB."""


class Action(StrEnum):
    """What happened to a container. CONNECT and DISCONNECT name a network, too."""

    START = "start"
    DIE = "die"
    REMOVE = "remove"
    RENAME = "rename"
    HEALTH = "health"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    CONNECT = "connect"
    DISCONNECT = "disconnect"


class Health(StrEnum):
    """What a container's HEALTHCHECK found; NONE when it has none or nobody says."""

    NONE = ""
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `container` is the full id; the rest is '' where the engine does not say it.

    `labels` are those of the container, with a few attributes of the engine's own among them; an
    event of a network has none. `health` is told with HEALTH by Docker; podman must be asked.
    """

    action: Action
    container: str
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    health: Health = Health.NONE
    network: str = ""
    network_name: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Port:
    """A container's port on one of the engine's networks; `aliases` are further names there."""

    network: str
    network_id: str = ""
    endpoint_id: str = ""
    aliases: tuple[str, ...] = ()
    address: str = ""
    address6: str = ""
    mac: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine lists it. `name` has no slash; `state` is such as `running`."""

    id: str
    name: str = ""
    state: str = ""
    health: Health = Health.NONE
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()

    @property
    def lives(self) -> bool:
        """It has processes, also when they are frozen."""
        return self.state in ("running", "paused")


@dataclass(frozen=True, slots=True)
class Details(Container):
    """A container as the engine describes it when asked for this one alone.

    `pid` is 0 unless it lives. `mode` is its network mode: `host`, `container:ID`, or a network.
    """

    pid: int = 0
    mode: str = ""


ACTIONS = {
    ("container", "start"): Action.START,
    ("container", "die"): Action.DIE,
    ("container", "died"): Action.DIE,
    ("container", "destroy"): Action.REMOVE,
    ("container", "remove"): Action.REMOVE,
    ("container", "rename"): Action.RENAME,
    ("container", "health_status"): Action.HEALTH,
    ("container", "pause"): Action.PAUSE,
    ("container", "unpause"): Action.UNPAUSE,
    ("network", "connect"): Action.CONNECT,
    ("network", "disconnect"): Action.DISCONNECT,
}
WORDS = {"docker": ("die", "destroy"), "podman": ("died", "remove")}
"""How each engine calls, in a filter, what the other calls otherwise."""


class _Actor(msgspec.Struct, frozen=True, rename="pascal"):
    id: str = msgspec.field(name="ID", default="")
    attributes: dict[str, Any] | None = None


class _Event(msgspec.Struct, frozen=True, rename="pascal"):
    type: str = ""
    action: str = ""
    actor: _Actor = _Actor()
    nanoseconds: int = msgspec.field(name="timeNano", default=0)


class _Endpoint(msgspec.Struct, frozen=True, rename="pascal"):
    network_id: str | None = msgspec.field(name="NetworkID", default="")
    endpoint_id: str | None = msgspec.field(name="EndpointID", default="")
    address: str | None = msgspec.field(name="IPAddress", default="")
    address6: str | None = msgspec.field(name="GlobalIPv6Address", default="")
    mac_address: str | None = ""
    aliases: list[str] | None = None


class _Networks(msgspec.Struct, frozen=True, rename="pascal"):
    networks: dict[str, _Endpoint | None] | None = None


class _Listed(msgspec.Struct, frozen=True, rename="pascal"):
    id: str
    names: list[str] | None = None
    state: str = ""
    status: str | None = ""
    labels: dict[str, str] | None = None
    network_settings: _Networks | None = None


class _Health(msgspec.Struct, frozen=True, rename="pascal"):
    status: str | None = ""


class _State(msgspec.Struct, frozen=True, rename="pascal"):
    status: str = ""
    pid: int = 0
    health: _Health | None = None


class _Config(msgspec.Struct, frozen=True, rename="pascal"):
    labels: dict[str, str] | None = None


class _HostConfig(msgspec.Struct, frozen=True, rename="pascal"):
    network_mode: str | None = ""


class _Inspected(msgspec.Struct, frozen=True, rename="pascal"):
    id: str
    state: _State
    name: str = ""
    config: _Config | None = None
    host_config: _HostConfig | None = None
    network_settings: _Networks | None = None


def events_target(kind: str) -> str:
    """Return the request for the events of an engine of this kind: nothing that nobody reads."""
    die, remove = WORDS[kind]
    events = ["start", die, remove, "rename", "health_status", "pause", "unpause"]
    filters = {"type": ["container", "network"], "event": [*events, "connect", "disconnect"]}
    return f"/events?{urlencode({'filters': json.dumps(filters)})}"


def list_target(label: str = "", *, everything: bool = False) -> str:
    """Return the request for the containers that run, or for all; `label` as KEY or KEY=VALUE."""
    query = {"all": "true"} if everything else {}
    if label:
        query["filters"] = json.dumps({"label": [label]})
    return f"/containers/json?{urlencode(query)}" if query else "/containers/json"


def read_kind(data: bytes) -> str:
    """Return `podman` or `docker`, from the answer to /version."""
    parts = _decode(data, dict[str, Any], "version").get("Components")
    return "podman" if "podman" in str(parts).lower() else "docker"


def read_event(line: bytes) -> Event | None:
    """Return the event of a line; None for one that is of no use to us or has another form."""
    try:
        said = msgspec.json.decode(line, type=_Event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    word, _, status = said.action.partition(":")
    action = ACTIONS.get((said.type, word))
    attributes = {k: v for k, v in (said.actor.attributes or {}).items() if isinstance(v, str)}
    if action in (Action.CONNECT, Action.DISCONNECT):
        container, network = attributes.get("container", ""), said.actor.id
        name, network_name, labels = "", attributes.get("name", ""), {}
    else:
        container, network, network_name = said.actor.id, "", ""
        name, labels = attributes.get("name", ""), attributes
    if action is None or not is_id(container):
        return None
    told = status.strip() or attributes.get("health_status", "")
    return Event(
        action=action,
        container=container,
        name=name.removeprefix("/"),
        labels=labels,
        health=_health(told) if action is Action.HEALTH else Health.NONE,
        network=network,
        network_name=network_name,
        at=said.nanoseconds / 1e9,
    )


def read_list(data: bytes) -> list[Container]:
    """Return the containers of a list, less those that have another form; BadInput for no list."""
    return list(_listed(_decode(data, list[Any], "list of containers")))


def _listed(items: list[Any]) -> Iterator[Container]:
    for item in items:
        try:
            said = msgspec.convert(item, _Listed)
        except msgspec.ValidationError:
            continue
        if is_id(said.id):
            # A name with another slash in it is that of a link to the container.
            names = [name.removeprefix("/") for name in said.names or ()]
            yield Container(
                id=said.id,
                name=next((name for name in names if name and "/" not in name), ""),
                state=said.state.lower(),
                health=_health_in(said.status or ""),
                labels=said.labels or {},
                ports=_ports(said.network_settings),
            )


def read_details(data: bytes) -> Details:
    """Return the description of one container; BadInput for anything else."""
    said = _decode(data, _Inspected, "description of a container")
    if not is_id(said.id):
        raise BadInput("the engine's description of a container has no id")
    lives = said.state.status.lower() in ("running", "paused")
    return Details(
        id=said.id,
        name=said.name.removeprefix("/"),
        state=said.state.status.lower(),
        health=_health(said.state.health.status or "") if said.state.health else Health.NONE,
        labels=(said.config.labels if said.config else None) or {},
        ports=_ports(said.network_settings),
        pid=said.state.pid if lives and 0 < said.state.pid < 1 << 31 else 0,
        mode=(said.host_config.network_mode if said.host_config else None) or "",
    )


def is_id(text: str) -> bool:
    """Say whether a text can be the id of a container."""
    return 12 <= len(text) <= 64 and text.isascii() and text.isalnum()


def _decode(data: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"the engine's {what} is not valid: {error}") from error


def _health(text: str) -> Health:
    try:
        return Health(text.strip().lower())
    except ValueError:
        return Health.NONE


def _health_in(status: str) -> Health:
    """Return the health that a line such as `Up 2 seconds (health: starting)` ends with."""
    _, bracket, rest = status.rpartition("(")
    return _health(rest.rstrip(")").removeprefix("health:")) if bracket else Health.NONE


def _ports(settings: _Networks | None) -> tuple[Port, ...]:
    networks = (settings.networks if settings else None) or {}
    return tuple(
        Port(
            network=name,
            network_id=said.network_id or "",
            endpoint_id=said.endpoint_id or "",
            aliases=tuple(said.aliases or ()),
            address=said.address or "",
            address6=said.address6 or "",
            mac=said.mac_address or "",
        )
        for name, said in sorted(networks.items())
        if said is not None
    )
