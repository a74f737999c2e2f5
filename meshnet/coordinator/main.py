"""Shell. The coordinator process: load, listen, run until told to stop.

    start: migrate the store, load the facts, listen (TLS and the admin socket), READY=1
    stop (SIGTERM, SIGINT): STOPPING=1, end streams and requests in good order, close the store

The event loop is uvloop's, whose TLS streams take an eighth of the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop
from aiohttp import web
from prometheus_client import Gauge

from meshnet.coordinator import tls
from meshnet.coordinator.admin import Admin
from meshnet.coordinator.committer import Batch, Committer
from meshnet.coordinator.config import (
    DEFAULT_RUN_DIR,
    DEFAULT_STATE_DIR,
    SOCKET,
    Config,
    Directory,
)
from meshnet.coordinator.core import Core, Terms
from meshnet.coordinator.feed import Feed
from meshnet.coordinator.http import Service
from meshnet.coordinator.members import Members
from meshnet.coordinator.networks import Networks
from meshnet.coordinator.pruning import Pruning
from meshnet.coordinator.publishing import Publishing
from meshnet.coordinator.records import Records
from meshnet.coordinator.sql import SqlStore, migrate
from meshnet.coordinator.store import Store
from meshnet.coordinator.tokens import Tokens
from meshnet.coordinator.world import World
from meshnet.errors import MeshnetError, Unavailable
from meshnet.linux.notify import notify, watchdog_interval
from meshnet.model.statements import Coordinators
from meshnet.wire.fact import open_fact

log = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 3600.0
CLOCK_STEP = 60.0
"""Seconds by which the clock may go wrong in a round without having been set."""
CLOSING_SECONDS = 5.0

REVISION = Gauge("meshnet_revision", "The store's revision")
FACTS = Gauge("meshnet_facts", "Facts in the store")


def run(
    state_dir: Path = DEFAULT_STATE_DIR, run_dir: Path = DEFAULT_RUN_DIR, log_level: str = "info"
) -> None:
    """Run the coordinator that `setup.initialise` made in `state_dir`, until SIGTERM."""
    logging.basicConfig(
        stream=sys.stderr,
        level=log_level.upper(),
        format="%(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    directory = Directory(state_dir)
    config = directory.config()
    lock = directory.lock()
    try:
        migrate(directory.store)
        uvloop.run(Coordinator(directory, config, run_dir / SOCKET).run())
    finally:
        os.close(lock)


class Coordinator:
    """All parts of one coordinator, put together."""

    def __init__(self, directory: Directory, config: Config, admin_socket: Path) -> None:
        self._directory = directory
        self._config = config
        self._admin_socket = admin_socket
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let `run` come to its end."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until a signal or `stop`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        store = SqlStore(self._directory.store)
        try:
            world = await load(store, self._config)
            await self._serve(store, world)
        finally:
            await store.close()

    async def _serve(self, store: Store, world: World) -> None:
        feed = Feed(world)
        issuer = self._directory.key("issuer")
        committer = Committer(store, world, issuer, feed.changed)
        pin = tls.pin_of(self._directory.certificate.read_text())
        core = Core(world, committer, self._config.terms, pin, os.urandom(32))
        networks = Networks(core)
        members = Members(core, networks)
        service = Service(core, members, networks, Publishing(core), feed)
        admin = Admin(
            self._config,
            core,
            Tokens(core, self._config),
            members,
            networks,
            Records(core),
            feed,
        )
        async with asyncio.TaskGroup() as group:
            housekeeping = _housekeep(members, Pruning(core), core.terms)
            tasks = [
                group.create_task(work)
                for work in (committer.run(), feed.run(), housekeeping, _watchdog())
            ]
            await core.committer.do(lambda batch: _tell_where(batch, self._config.urls, pin))
            async with self._listening(service.application(), admin.application()):
                notify("READY=1", f"STATUS={len(world.facts)} facts, revision {world.revision}")
                await self._stopping.wait()
                notify("STOPPING=1")
                log.info("stopping")
                await feed.close()
            for task in tasks:
                task.cancel()

    @contextlib.asynccontextmanager
    async def _listening(
        self, service: web.Application, admin: web.Application
    ) -> AsyncIterator[None]:
        runners = [
            web.AppRunner(
                app,
                access_log=None,
                handler_cancellation=True,
                shutdown_timeout=CLOSING_SECONDS,
                keepalive_timeout=75,
            )
            for app in (service, admin)
        ]
        try:
            for runner in runners:
                await runner.setup()
            await self._open_ports(runners[0])
            await self._open_socket(runners[1])
            yield
        finally:
            for runner in runners:
                await runner.cleanup()
            self._admin_socket.unlink(missing_ok=True)

    async def _open_ports(self, runner: web.AppRunner) -> None:
        context = tls.server_context(self._directory.certificate, self._directory.tls_key)
        for listen in self._config.listen:
            site = web.TCPSite(
                runner, listen.host or None, listen.port, ssl_context=context, backlog=1024
            )
            try:
                await site.start()
            except OSError as error:
                raise Unavailable(
                    f"cannot listen on {listen}: {error.strerror}",
                    "Stop what uses the port, or choose another by --listen.",
                ) from error
            log.info("listening on %s", listen)

    async def _open_socket(self, runner: web.AppRunner) -> None:
        path = self._admin_socket
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                await web.UnixSite(runner, path).start()
            finally:
                os.umask(before)
        except OSError as error:
            raise Unavailable(f"cannot open {path}: {error.strerror}") from error


async def load(store: Store, config: Config) -> World:
    """Return the mesh as the store has it; every signature is looked at again."""
    async with store.begin() as tx:
        counters = await tx.counters()
    world = World(config.root, counters.store, counters.revision, counters.horizon)
    broken = 0
    for stored in await store.facts():
        try:
            world.load([(open_fact(stored.signed), stored.revision)])
        except MeshnetError as error:
            broken += 1
            log.error("a fact in the store cannot be used: %s", error.message)
    log.info("%d facts at revision %d, %d unusable", len(world.facts), world.revision, broken)
    REVISION.set_function(lambda: world.revision)
    FACTS.set_function(lambda: len(world.facts))
    return world


async def _tell_where(batch: Batch, urls: tuple[str, ...], pin: str) -> None:
    """State where this coordinator is, when that is not what was said last."""
    current = Coordinators(urls, (pin,))
    if batch.world.statements(batch.now).coordinators != current:
        batch.state(current)


async def _housekeep(members: Members, pruning: Pruning, terms: Terms) -> None:
    """Forget who is long gone. That cannot be undone, so a clock that is wrong when the machine
    boots, or is set while we run, has a round's time to be put right."""
    pause = min(HOUSEKEEPING_SECONDS, terms.lease_grace, terms.gone_grace)
    while True:
        wall, steady = time.time(), time.monotonic()
        await asyncio.sleep(pause)
        if abs(time.time() - wall - (time.monotonic() - steady)) > CLOCK_STEP:
            log.warning("the clock was set: who seems long gone is looked at in %d s", pause)
            continue
        try:
            if gone := await members.forget_gone():
                log.info("forgot %d nodes", gone)
            if void := await pruning.prune():
                log.info("%d statements that said nothing any more are gone", void)
        except MeshnetError as error:
            log.warning("housekeeping waits: %s", error.message)


async def _watchdog() -> None:
    interval = watchdog_interval()
    while interval is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
