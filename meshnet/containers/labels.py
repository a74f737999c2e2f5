"""Pure. What a container asks of the mesh by its labels, and what becomes of it there.

    mesh.service=web          it is an instance of this service
    mesh.port=80,grpc:9000    on these ports
    mesh.network=appnet       on this network; `default` when there is no such label

A container with `mesh.service` or `mesh.network` is attached; one without either is none of our
business, and one that our driver or plugin has attached needs `mesh.network` for another network.
One that shares the host's network is not: the host has its own place on the mesh. The name it was
given becomes the attachment's, compose's service one more service. Those it was given for other
reasons: where one cannot be a name of the mesh, the container does without.

Its attachment's owner is made of the engine's socket and its id: `engine:/run/docker.sock/ID`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from meshnet.containers.engine_protocol import (
    NETWORK_LABEL,
    PORT_LABEL,
    SERVICE_LABEL,
    Container,
    Health,
    Port,
)
from meshnet.model.attached import LocalAttachment
from meshnet.model.names import DEFAULT_NETWORK, check_name, label_from, name_from
from meshnet.wire.local import AttachRequest, PortSpec
from meshnet.wire.port import port

COMPOSE_LABEL = "com.docker.compose.service"
SHORT_ID = 12


@dataclass(frozen=True, slots=True)
class Wish:
    """What a container asks for. `basis` is what the attachment's name is made from, `told` the
    service of its label, '' when it has none; `services` are that and other names for it.

    Unless it is `particular` about its network, one that an engine has put it on will do.
    """

    network: str
    particular: bool
    told: str
    services: tuple[str, ...]
    ports: tuple[PortSpec, ...]
    basis: str
    healthy: bool

    def is_met_by(self, item: LocalAttachment) -> bool:
        """Say whether an attachment that is there already is what is asked for."""
        return item.network == self.network or not self.particular


def is_asking(labels: Mapping[str, str]) -> bool:
    """Say whether labels ask for the mesh."""
    return SERVICE_LABEL in labels or NETWORK_LABEL in labels


def names_network(container: Container) -> bool:
    """Say whether a container asks for one network by name."""
    return NETWORK_LABEL in container.labels


def is_concerned(container: Container) -> bool:
    """Say whether a container is to be on the mesh now."""
    return container.lives and is_asking(container.labels)


def wish_of(container: Container) -> Wish:
    """Return what a container asks for; BadInput for labels that are not valid."""
    labels = container.labels
    network = labels.get(NETWORK_LABEL) or DEFAULT_NETWORK
    told = labels.get(SERVICE_LABEL, "")
    if told:
        check_name(told, "service")
    compose = label_from(labels.get(COMPOSE_LABEL, ""))
    return Wish(
        network=check_name(network, "network"),
        particular=names_network(container),
        told=told,
        services=tuple(dict.fromkeys(name for name in (told, compose) if name)),
        ports=_ports(labels),
        basis=basis_of(container),
        healthy=is_healthy(container),
    )


def basis_of(container: Container) -> str:
    """Return what the name of a container's attachment is made from."""
    return name_from(container.name) or f"c-{container.id[:SHORT_ID]}"


def is_healthy(container: Container) -> bool:
    """Say whether it answers: its check says so, or it has none, and it is not frozen."""
    return container.state == "running" and container.health in (Health.NONE, Health.HEALTHY)


def _ports(labels: Mapping[str, str]) -> tuple[PortSpec, ...]:
    texts = (text.strip() for text in labels.get(PORT_LABEL, "").split(","))
    return tuple(dict.fromkeys(port(text) for text in texts if text))


def attach_request(wish: Wish, pid: int, owner: str) -> AttachRequest:
    """Return what attaches a container that has no place on the mesh yet."""
    return AttachRequest(
        pid=pid,
        network=wish.network,
        service=wish.told,
        ports=wish.ports,
        aliases=tuple(name for name in wish.services if name != wish.told),
        healthy=wish.healthy,
        basis=wish.basis,
        owner=owner,
    )


def owner_of(engine: str, container: str) -> str:
    """Return the owner of the attachment that we make for a container."""
    return f"engine:{engine}/{container}"


def container_of(engine: str, owner: str) -> str:
    """Return the container that an owner names, '' when it is not one of this engine's."""
    head, _, container = owner.rpartition("/")
    return container if head == f"engine:{engine}" else ""


class Placed:
    """What is attached on this node, as one asks for it here."""

    def __init__(self, items: Iterable[LocalAttachment]) -> None:
        self._by_owner: dict[str, LocalAttachment] = {}
        self._by_inode: dict[int, list[LocalAttachment]] = {}
        self._names: set[tuple[str, str]] = set()
        for item in items:
            self._names.add((item.network, item.name))
            self._by_owner[item.owner] = item
            self._by_inode.setdefault(item.inode, []).append(item)

    def by_labels(self, engine: str) -> dict[str, LocalAttachment]:
        """Return what is attached for containers of an engine by their labels, by container."""
        named = ((container_of(engine, owner), item) for owner, item in self._by_owner.items())
        return {container: item for container, item in named if container}

    def by_driver(self, container: Container) -> list[tuple[LocalAttachment, Port]]:
        """Return what our Docker driver has attached of a container, each with its port."""
        ports = {f"docker/{port.network_id}/{port.endpoint_id}": port for port in container.ports}
        return [(self._by_owner[key], port) for key, port in ports.items() if key in self._by_owner]

    def by_others(self, inode: int) -> list[LocalAttachment]:
        """Return what a plugin, or somebody by hand, has attached in a namespace."""
        items = self._by_inode.get(inode, [])
        return [item for item in items if not item.owner.startswith("engine:")]

    def is_named_for(self, item: LocalAttachment, basis: str) -> bool:
        """Say whether an attachment's name is `basis`, or with a number as another one has that."""
        name = basis[:50]
        if item.name == name:
            return True
        numbered = re.fullmatch(re.escape(name) + r"-[0-9]+", item.name)
        return bool(numbered) and (item.network, name) in self._names


def with_aliases(wish: Wish, container: Container, port: Port) -> Wish:
    """Return the wish with the names that a container has on one network of Docker's.

    Docker adds the head of the container's id, which is no name for people.
    """
    names = (label_from(alias) for alias in port.aliases)
    aliases = (name for name in names if name and not container.id.startswith(name))
    services = dict.fromkeys((*wish.services, *aliases))
    return replace(wish, services=tuple(name for name in services if name != wish.basis))
