"""Shell. The agent's process: what it is made of, how it starts and how it ends.

On SIGTERM it stops and leaves everything in place: tunnels, networks and the DNS process go on
without it, and the next agent adopts them. Only `down` takes them away.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshnet import __version__
from meshnet.agent import api, report
from meshnet.agent.client import CoordinatorClient
from meshnet.agent.desk import Desk
from meshnet.agent.machine import this_machine
from meshnet.agent.names import Names
from meshnet.agent.node import TUNNEL, MeshNode
from meshnet.agent.rotation import Rotation
from meshnet.agent.storage import StateDir, hold
from meshnet.agent.uplink import Uplink
from meshnet.errors import MeshnetError, Unavailable
from meshnet.linux.backend import pick_backend
from meshnet.linux.kernel import LinuxKernel
from meshnet.linux.notify import notify, watchdog_interval
from meshnet.wire import local

log = logging.getLogger(__name__)

HOST_RETRY_FIRST, HOST_RETRY_LAST = 0.2, 30.0
CERTIFICATE_ALARM = 3 * 24 * 3600
COMPANION_PAUSE = 10.0
SWITCH = 0.0005
"""Seconds after which the loop hands the interpreter over: a pass makes fifty system calls for a
port, and would wait five milliseconds after each while the loop is busy."""

FIRST_SWEEP, SWEEP_EVERY = 30.0, 3600.0
"""Seconds from the start until what is there is taken for lasting, and until all is looked at."""


@dataclass(frozen=True, slots=True)
class Config:
    """Where the agent keeps its files and its sockets."""

    state_dir: Path
    run_dir: Path


Companion = Callable[[Desk], Awaitable[None]]
"""What runs in the agent's process and asks of its desk what others ask by its socket."""


def run(config: Config, companions: Sequence[Companion] = ()) -> None:
    """Be the agent until SIGTERM or SIGINT; raise a MeshnetError when it cannot start."""
    asyncio.run(Agent(config, companions).run())


class Agent(api.Steward):
    """The agent: a node, its line to a coordinator, its names, its local API."""

    def __init__(self, config: Config, companions: Sequence[Companion] = ()) -> None:
        self._config = config
        self._companions = companions
        state = StateDir(config.state_dir)
        settings = state.settings()
        self._held = [hold(directory) for directory in (config.state_dir, config.run_dir)]
        self.kernel = LinuxKernel(pick_backend(), TUNNEL)
        self.node = MeshNode(state, this_machine(self.kernel))
        self.client = CoordinatorClient(settings.urls, settings.pins, self.node.identity)
        self.uplink = Uplink(self.node, self.client)
        self.desk = Desk(self.node, self.uplink)
        self.rotation = Rotation(self.node, self.uplink)
        self.names = Names(self.node, config.run_dir, forward=settings.dns_forward)
        self._started = int(time.time())
        self._stop = asyncio.Event()
        self._purge: bool | None = None

    async def run(self) -> None:
        """Run until told to stop."""
        sys.setswitchinterval(SWITCH)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        work = asyncio.ensure_future(self._work())
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        notify("STOPPING=1")
        stop.cancel()
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        if self._purge is not None:
            await self._take_away()

    async def _work(self) -> None:
        answers = api.Api(self.node, self.desk, self)
        try:
            async with api.serving(answers, self._config.run_dir / local.SOCKET):
                await self.node.run(
                    self.uplink.run,
                    self.rotation.run,
                    self.names.run,
                    self._hosts,
                    self._events,
                    self._accompany,
                    self._ready,
                    self._sweep,
                )
        finally:
            await self.client.close()

    async def _accompany(self) -> None:
        async with asyncio.TaskGroup() as group:
            for companion in self._companions:
                group.create_task(self._beside(companion))

    async def _beside(self, companion: Companion) -> None:
        """Run a companion; a mistake in it ends it for a while, and nothing else."""
        while True:
            try:
                await companion(self.desk)
            except Exception:
                log.exception("a companion of the agent has failed")
            await asyncio.sleep(COMPANION_PAUSE)

    async def _ready(self) -> None:
        """Tell systemd, then give signs of life for as long as the loop turns."""
        notify("READY=1", f"STATUS={self.node.name_of(self.node.id)}: {self.kernel.backend}")
        log.info("agent %s, WireGuard: %s", __version__, self.kernel.backend)
        interval = watchdog_interval()
        while interval is not None:
            notify("WATCHDOG=1")
            await asyncio.sleep(interval)

    async def _sweep(self) -> None:
        """Keep the garbage collector from what lasts: facts by the ten thousand and what follows
        from them. Going through them stops the agent for a third of a second and finds nothing, so
        that is done every hour and not every minute."""
        await asyncio.sleep(FIRST_SWEEP)
        while True:
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            await asyncio.sleep(SWEEP_EVERY)

    async def _events(self) -> None:
        """Wake whoever is concerned when the kernel says that something changed."""
        async for event in self.kernel.events():
            if event.host or event.lost:
                self.node.underlay_changed()
            self.node.reconciler.doubt()

    async def _hosts(self) -> None:
        """Attach the host itself to the networks it is to be on, and ask for room in good time."""
        pause = HOST_RETRY_FIRST
        while True:
            try:
                if self.node.me is not None:
                    await self._attach_hosts()
                    await self._lease_ahead()
                self.node.attachments.absent = None
                pause = min(pause * 1.5, HOST_RETRY_LAST)
            except MeshnetError as error:
                why = f"this host is not on all its networks: {error.message}"
                self.node.attachments.absent = why, error.hint
                pause = min(pause * 2, HOST_RETRY_LAST)
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))

    async def _attach_hosts(self) -> None:
        attached = {item.network for item in self.node.attachments if item.host}
        for network in self.node.settings.host_networks:
            if network in self.node.view.networks and network not in attached:
                await self.desk.attach(local.AttachRequest(host=True, network=network))

    async def _lease_ahead(self) -> None:
        for name in sorted(self.node.attachments.networks() & self.node.view.networks.keys()):
            for prefix in self.node.view.networks[name].prefixes:
                if self.uplink.connected and self.desk.nearly_full(name, prefix.version):
                    await self.uplink.lease(name, prefix.version)

    # The local API's needs

    def status(self) -> local.Status:
        """Return the agent on one page."""
        scene, me = self.node.scene(), self.node.me
        return local.Status(
            version=__version__,
            node=self.node.id,
            name=me.name if me else self.node.settings.name,
            addresses=report.mesh_addresses(me) if me else (),
            interface=TUNNEL,
            backend=self.kernel.backend,
            public_key=str(self.node.wireguard.public),
            listen_port=self.node.listen_port,
            behind_nat=self.node.sightings.behind_nat,
            mtu=self.node.mtus.device,
            coordinator=local.CoordinatorState(
                connected=self.uplink.connected,
                url=self.uplink.url,
                since=self.uplink.since,
                last_error=self.uplink.last_error,
            ),
            dns=self.names.state(),
            counts=report.counts(scene),
            revision=self.uplink.revision or 0,
            digest=self.node.book.facts.digest,
            membership_not_after=me.membership.not_after if me else 0,
            started=self._started,
            now=int(time.time()),
            last_reconcile=int(self.node.reconciler.last),
            repairs=dict(sorted(self.node.reconciler.repairs.items())),
            refused=len(self.node.view.refusals),
            warnings=tuple(self._warnings()),
            next_public_key=str(self.node.next_key.public) if self.node.next_key else "",
        )

    def _warnings(self) -> list[str]:
        me = self.node.me
        warnings = [f"the kernel refuses: {text}" for text in self.node.reconciler.failing]
        absent, _ = self.node.attachments.absent or ("", "")
        faults = (self.node.book.fault, self.node.attachments.fault, absent)
        warnings += filter(None, faults)
        if me is None:
            warnings.append("this node is no member: its certificate is missing, over or revoked")
        elif me.membership.not_after - time.time() < CERTIFICATE_ALARM:
            warnings.append("the node's certificate ends in under three days and is not renewed")
        if not self.uplink.connected:
            warnings.append(f"no coordinator: {self.uplink.last_error or 'connecting'}")
        return warnings

    async def dns(self, name: str, kind: str) -> local.DnsAnswer:
        """Ask this node's DNS server."""
        return await self.names.query(name, kind)

    async def dns_host(self, mode: local.HostDnsMode) -> str:
        """Choose how this host asks for the mesh's names."""
        return await self.names.ask_by(mode)

    async def create_network(self, request: local.NetworkRequest) -> None:
        """Have a coordinator make a network."""
        prefixes = tuple(report.parse_prefix(text) for text in request.prefixes)
        await self.uplink.create_network(
            request.name, prefixes, flood=request.flood, transient=request.transient
        )

    async def remove_network(self, name: str) -> None:
        """Have a coordinator take a network away."""
        await self.uplink.remove_network(name)

    async def rotate_key(self, *, force: bool) -> local.KeyRotated:
        """Change the node's WireGuard key."""
        return await self.rotation.rotate(force=force)

    async def down(self, *, purge: bool) -> None:
        """Stop, and take all of ours away."""
        self._purge = purge
        asyncio.get_running_loop().call_later(0.1, self._stop.set)

    async def _take_away(self) -> None:
        from meshnet.agent.down import take_away

        await self.names.stop()
        for line in take_away(self.kernel, self._config.run_dir):
            log.info("%s", line)
        if self._purge:
            StateDir(self._config.state_dir).purge()


__all__ = ["Agent", "Config", "Unavailable", "run"]
