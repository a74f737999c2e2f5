"""Shell. Containers that ask for the mesh by a label, attached by the agent with no plugin.

    engine ── events, lists ──▶ Discovery ── attach, rename, health, detach ──▶ the agent's desk
       ◀────── inspect ID ─────────┘

An event says only that a container is worth a look; what is done follows from what the engine says
of it when it is looked at, and from what is attached. So an event that is lost, late or told twice
does no harm, a list is a look at each, and an agent that starts anew adopts what it finds.

The container keeps all it has from its engine: ours is one more interface with routes to its
network of the mesh alone. While an engine is gone its containers stay as they are; one whose
namespace has ended is taken away by the node itself.

Decision: within the agent, not a process of its own: an engine is asked by few tasks that each
wait with a limit, and what goes wrong there is logged and tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Protocol

from meshnet.agent.attachments import namespace_inode
from meshnet.containers import labels
from meshnet.containers.engine import RELIST, Engine, Listed, Lost, News
from meshnet.containers.engine_protocol import Action, Container, Details, Event, Port
from meshnet.containers.labels import Placed, Wish
from meshnet.errors import BadInput, Conflict, MeshnetError, NotFound
from meshnet.model.attached import LocalAttachment
from meshnet.wire.local import Attached, AttachRequest, PortSpec, ServiceRequest

log = logging.getLogger(__name__)

WORKERS = 4
"""Containers that an engine is asked about at the same time."""

RETRY = 5.0
"""Seconds until another look at a container that could not be attached."""


class Desk(Protocol):
    """What is asked of the agent."""

    async def attach(self, request: AttachRequest) -> Attached: ...  # pragma: no cover

    async def detach(self, network: str, name: str) -> None: ...  # pragma: no cover

    def attached(self) -> list[LocalAttachment]: ...  # pragma: no cover

    def knows(self, group: str) -> bool: ...  # pragma: no cover

    def rename(self, item: LocalAttachment, basis: str) -> LocalAttachment: ...  # pragma: no cover

    def set_health(
        self, item: LocalAttachment, *, healthy: bool
    ) -> LocalAttachment: ...  # pragma: no cover

    def add_service(self, request: ServiceRequest) -> LocalAttachment: ...  # pragma: no cover


class Discovery:
    """Follows one engine. `inode_of` finds a network namespace's inode by its path."""

    def __init__(
        self, engine: Engine, desk: Desk, inode_of: Callable[[str], int], relist: float = RELIST
    ) -> None:
        self._engine = engine
        self._desk = desk
        self._inode_of = inode_of
        self._relist = relist
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._plugged: set[str] = set()
        self._busy: set[str] = set()
        self._faults: dict[str, str] = {}
        self._lost = True

    @property
    def name(self) -> str:
        return str(self._engine.path)

    async def run(self) -> NoReturn:
        """Follow it until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._engine.watch(self._hear, relist=self._relist))
            for _ in range(WORKERS):
                group.create_task(self._work())
        raise AssertionError("an engine is watched for ever")

    # What is heard

    def _hear(self, news: News) -> None:
        if isinstance(news, Lost):
            if not self._lost:
                log.warning("engine on %s does not answer: %s", self.name, news.reason)
            self._lost = True
        elif isinstance(news, Listed):
            if self._lost:
                log.info("engine on %s: labels of its containers are followed", self.name)
            self._lost = False
            self._compare(news.containers)
        elif labels.is_asking(news.labels) or self._is_plugged(news):
            self._look_at(news.container)

    def _is_plugged(self, event: Event) -> bool:
        """Say whether our Docker driver has attached an event's container."""
        if event.action is Action.CONNECT:
            if self._desk.knows(f"docker/{event.network}"):
                self._plugged.add(event.container)
        elif event.action in (Action.DIE, Action.REMOVE):
            self._plugged.discard(event.container)
        return event.container in self._plugged

    def _compare(self, containers: tuple[Container, ...]) -> None:
        placed = Placed(self._desk.attached())
        ours = placed.by_labels(self.name)
        there = {each.id: each for each in containers if labels.is_concerned(each)}
        for gone in ours.keys() - there.keys():
            self._look_at(gone)
        for container in containers:
            for plugged, _ in placed.by_driver(container):
                self._plugged.add(container.id)
                if not _looks_right(placed, plugged, container):
                    self._look_at(container.id)
        for container in there.values():
            if container.id in self._plugged and not labels.names_network(container):
                continue
            item = ours.get(container.id)
            if item is None or not _looks_right(placed, item, container):
                self._look_at(container.id)
        self._faults = {key: text for key, text in self._faults.items() if key in there}

    def _look_at(self, container: str) -> None:
        if container not in self._queued:
            self._queued.add(container)
            self._queue.put_nowait(container)

    # What is done

    async def _work(self) -> None:
        while True:
            container = await self._queue.get()
            self._queued.discard(container)
            if container in self._busy:
                self._later(container, 0.05)
                continue
            self._busy.add(container)
            try:
                await self._look(container)
                self._faults.pop(container, None)
            except MeshnetError as error:
                self._failed(container, error)
            finally:
                self._busy.discard(container)

    def _later(self, container: str, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._look_at, container)

    def _failed(self, container: str, error: MeshnetError) -> None:
        """Say once what is wrong; try again unless the container itself would have to change."""
        text = error.whole
        if self._faults.get(container) != text:
            log.warning("container %s is not on the mesh: %s", container[:12], text)
            self._faults[container] = text
        if not isinstance(error, BadInput):
            self._later(container, RETRY)

    async def _look(self, container: str) -> None:
        """Bring what is attached to what the engine says of a container."""
        details, inode = await self._inspect(container)
        placed = Placed(self._desk.attached())
        item = placed.by_labels(self.name).get(container)
        if details is None:
            await self._drop(item)
            return
        driven = placed.by_driver(details)
        for each, port in driven:
            self._describe(placed, each, details, port)
        if not labels.is_concerned(details):
            await self._drop(item)
            return
        wish = labels.wish_of(details)
        plugged = [each for each in placed.by_others(inode) if wish.is_met_by(each)]
        for each in plugged:
            self._serve(each, wish)
        if plugged or any(wish.is_met_by(each) for each, _ in driven):
            await self._drop(item)
        elif item is None or item.inode != inode or item.network != wish.network:
            await self._drop(item)
            await self._attach(details, wish)
        else:
            self._amend(placed, item, wish)

    async def _inspect(self, container: str) -> tuple[Details | None, int]:
        """Return a container that lives and the inode of its namespace; None and 0 otherwise."""
        try:
            details = await self._engine.inspect(container)
            inode = self._inode_of(f"/proc/{details.pid}/ns/net") if details.pid else 0
        except NotFound:
            return None, 0
        return (details, inode) if inode else (None, 0)

    async def _drop(self, item: LocalAttachment | None) -> None:
        if item is None:
            return
        try:
            await self._desk.detach(item.network, item.name)
        except NotFound:
            return
        log.info("container %s is gone: detached from network %s", item.name, item.network)

    async def _attach(self, details: Details, wish: Wish) -> None:
        owner = labels.owner_of(self.name, details.id)
        given = await self._desk.attach(labels.attach_request(wish, details.pid, owner))
        addresses = ", ".join(given.addresses)
        log.info("container %s is on network %s: %s", given.name, given.network, addresses)

    def _amend(self, placed: Placed, item: LocalAttachment, wish: Wish) -> None:
        item = self._desk.set_health(item, healthy=wish.healthy)
        if not placed.is_named_for(item, wish.basis):
            self._desk.rename(item, wish.basis)

    def _describe(
        self, placed: Placed, item: LocalAttachment, details: Details, port: Port
    ) -> None:
        """Give what our Docker driver attached the names and the health that it was not told."""
        wish = labels.with_aliases(labels.wish_of(details), details, port)
        if not placed.is_named_for(item, wish.basis):
            item = self._desk.rename(item, wish.basis)
        try:
            self._serve(item, wish)
        except Conflict as error:
            log.warning("container %s: %s", details.name, error.message)

    def _serve(self, item: LocalAttachment, wish: Wish) -> None:
        """Make what a plugin attached an instance: no plugin but Docker's is told of labels."""
        known = {instance.service for instance in item.instances}
        for number, service in enumerate(wish.services):
            if service not in known:
                ports = wish.ports if number == 0 else ()
                item = self._add(item, service, ports, told=service == wish.told)
        self._desk.set_health(item, healthy=wish.healthy)

    def _add(
        self, item: LocalAttachment, service: str, ports: tuple[PortSpec, ...], *, told: bool
    ) -> LocalAttachment:
        """Make one an instance; a name that no label told, and that cannot be, is left out."""
        request = ServiceRequest(
            service=service, network=item.network, attachment=item.name, ports=ports
        )
        try:
            return self._desk.add_service(request)
        except (BadInput, Conflict) as error:
            if told:
                raise
            log.info("%s is no name of container %s: %s", service, item.name, error.message)
            return item


def _looks_right(placed: Placed, item: LocalAttachment, container: Container) -> bool:
    """Say whether a list gives no reason to look at a container."""
    healthy = labels.is_healthy(container)
    if any(instance.healthy != healthy for instance in item.instances):
        return False
    return placed.is_named_for(item, labels.basis_of(container))


async def follow(path: Path, desk: Desk) -> None:
    """Follow the engine on a socket, for the agent that this runs in."""
    await Discovery(Engine(path), desk, namespace_inode).run()
