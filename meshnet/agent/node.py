"""Shell. One node: the tasks of an agent, tied together.

    coordinator ──▶ Uplink ─┐                       ┌─▶ Reconciler ──▶ kernel
    peers ──▶ Exchange ─────┼─▶ Book ─▶ View ───────┼─▶ Prober (whom to probe)
    local API ─▶ Attachments┘                       └─▶ Names ──▶ DNS process

Whatever changes a fact, a port or a peer's reach calls `changed`; one task then brings everything
that follows from it up to date, so a burst of changes costs one round. A node says its own record
only when its kernel has every peer of its first full view: whoever hears of it may shake hands at
once, and is answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address

from meshnet import __version__
from meshnet.agent.attachments import Attachments
from meshnet.agent.book import Book
from meshnet.agent.exchange import Exchange
from meshnet.agent.machine import Machine
from meshnet.agent.mtus import Mtus
from meshnet.agent.prober import Prober
from meshnet.agent.reconciler import Outcome, Reconciler, is_port_clash
from meshnet.agent.report import Scene
from meshnet.agent.storage import StateDir
from meshnet.agent.waiting import Lateness, happened, rest
from meshnet.model.addresses import Address, Endpoint, Prefix
from meshnet.model.facts import Fact
from meshnet.model.keys import PrivateKey, PublicKey
from meshnet.model.records import Candidate, NodeRecord, Record
from meshnet.model.view import Node, View
from meshnet.paths.endpoints import Contact, Endpoints, ranked
from meshnet.paths.liveness import Liveness, Reach
from meshnet.paths.sightings import Sightings
from meshnet.plan.desired import Local, best_mtus, desired
from meshnet.plan.entries import Entries
from meshnet.plan.families import only_ipv4
from meshnet.plan.holds import Holds
from meshnet.plan.mtu import network_mtu
from meshnet.plan.operations import ConfigureTunnel
from meshnet.plan.rotation import announced_keys, by_key, new_keys, successors
from meshnet.plan.silence import silent
from meshnet.plan.state import Host, PeerStatus
from meshnet.wire.probe import Probe

log = logging.getLogger(__name__)

TUNNEL = "meshnet0"
PROBES_PER_ROUND = 5
"""Probes of size a round counts for, of those that a node may send."""
SETTLE = 0.005
"""Seconds for which a change waits for others to join it."""
GIVE_WAY = 0.02
"""Seconds for which what follows from a change lets a pass go first: both would share the
interpreter, and somebody may wait for the pass."""
ANSWER = 0.001
"""Seconds for whoever waited for that pass to be answered."""
LONGEST_NAP = 30.0


class MeshNode:
    """One node of the mesh. `followers` are called with every new view or change of reach."""

    def __init__(self, state: StateDir, machine: Machine) -> None:
        self.settings = state.settings()
        self.identity, self.wireguard = state.keys()
        self.next_key = state.next_key()
        self.device_key = self.wireguard
        self.id = self.identity.public.node_id
        self.state = state
        self.machine = machine
        self.attachments = Attachments(state, machine.boot, machine.namespace_inode)
        self.book = Book(self.settings.root, self.identity, state.journal(), time.time)
        self.holds = Holds()
        self.liveness = Liveness(machine.probes_per_second, self.id)
        self.endpoints = Endpoints()
        self.reconciler = Reconciler(
            machine.kernel,
            self.desired,
            self._drop_vanished,
            self.may_remove,
            self._seen,
            self._passed,
        )
        self.mtus = Mtus(
            machine.probes_per_second / PROBES_PER_ROUND,
            lambda data, address: self.prober.send(data, address),
            self._sizes_changed,
        )
        self.prober = Prober(
            machine.sockets,
            self.liveness,
            lambda: self.book.facts.digest,
            self._reach_changed,
            self._told,
            self._observed,
            self.mtus,
        )
        self.exchange = Exchange(machine.sockets, self.book, self.took, lambda: self.connected)
        self.followers: list[Callable[[], None]] = []
        self.publishers: list[Callable[[list[Fact]], None]] = []
        self.connected = False
        self.listen_port = self.settings.listen_port
        self.kernel_state = Host()
        self.digests: dict[str, str] = {}
        self.built: frozenset[str] = frozenset()
        self._underlay = machine.underlay()
        self.sightings = Sightings(self._own_addresses())
        self.mtus.set_underlay(self._underlay)
        self._entries = Entries()
        self._known_others: tuple[View | None, dict[str, Node]] = (None, {})
        self._chosen: dict[str, Endpoint] = {}
        self._pointed: dict[str, Endpoint] = {}
        self._acquainted: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._counted: Mapping[PublicKey, PeerStatus] = {}
        self._configured = False
        self._expected: frozenset[str] | None = None
        self._bound = False

    # What is so

    @property
    def view(self) -> View:
        return self.book.view

    @property
    def me(self) -> Node | None:
        """This node as the mesh sees it; None while it is no member."""
        return self.view.nodes.get(self.id)

    @property
    def network_mtu(self) -> int:
        return network_mtu(best_mtus(self.view, self.id, self.mtus.best))

    def scene(self) -> Scene:
        """Return what reports are made from."""
        here = tuple(self.attachments)
        return Scene(
            self.view,
            self.id,
            self.liveness,
            self.kernel_state,
            here,
            self.network_mtu,
            self.mtus.fits,
        )

    def may_remove(self) -> bool:
        """Say whether a full view has been had, in this run or an earlier one."""
        return self.state.complete

    def desired(self) -> Host:
        """Return what should be on this host."""
        peers, tunnel = self._others(), self.kernel_state.tunnel
        keys = announced_keys(peers.values(), tunnel, self.liveness.reachable)
        local = Local(
            node=self.id,
            tunnel=TUNNEL,
            private_key=self.device_key,
            listen_port=self.listen_port,
            mtu=self.mtus.device,
            best=self.mtus.best,
            ports=self.attachments.ports(),
            endpoints=by_key(peers, keys, {**successors(peers.values(), tunnel), **self._chosen}),
            behind_nat=self.sightings.behind_nat,
            mtus=self.mtus.fits,
            keys=keys,
            held=self.holds.networks(time.monotonic()),
        )
        wish = desired(self.view, local, self._entries)
        return wish if self.machine.ipv6 else only_ipv4(wish)

    # What happens

    def changed(self) -> None:
        """Facts, ports, reach or the underlay may have changed."""
        self._changed.set()

    def took(self, news: Iterable[Fact]) -> None:
        """News came in."""
        self.changed()

    def complete(self) -> None:
        """A full view is there: from now on things may be taken away."""
        if not self.state.complete:
            self.state.mark_complete()
        self.book.forget_strangers()
        self.changed()

    def underlay_changed(self) -> None:
        """Addresses or links of the host may have changed. Most often they were a container
        engine's, and nothing follows."""
        before, self._underlay = self._underlay, self.machine.underlay()
        self.sightings.moved(self._own_addresses(), time.monotonic())
        self.mtus.set_underlay(self._underlay)
        if self._underlay != before:
            self.endpoints.moved()
            self.changed()

    def _own_addresses(self) -> set[Address]:
        return {item.address.ip for item in self._underlay}

    def _reach_changed(self, nodes: set[str]) -> None:
        for node in sorted(nodes):
            log.info("node %s is %s", self.name_of(node), self.liveness.reach(node).value)
        self.changed()

    def _sizes_changed(self) -> None:
        for name, fits in sorted(self.mtus.fits.items()):
            if fits < self.mtus.limit(name):
                log.warning("packets of %d bytes at most pass to %s", fits, self.name_of(name))
        self.changed()

    def _told(self, node: str, probe: Probe) -> None:
        member = self.view.nodes.get(node)
        self.digests[node] = probe.digest
        if member is not None:
            self.exchange.told(str(member.membership.address4), probe.digest)
        if probe.seen is not None:
            with self._sighting() as now:
                self.sightings.seen_by_peer(node, probe.seen.address, now)

    def seen_by_coordinator(self, address: str) -> None:
        """A coordinator says where our connection comes from; what is no address tells nothing."""
        with suppress(ValueError), self._sighting() as now:
            self.sightings.seen_by_coordinator(ip_address(address), now)

    @contextmanager
    def _sighting(self) -> Iterator[float]:
        before = self.sightings.behind_nat
        yield time.monotonic()
        if self.sightings.behind_nat != before:
            log.info("this node is %sbehind a NAT", "not " if before else "")
            self.changed()

    def _observed(self, node: str) -> Endpoint | None:
        """Return where the kernel has a peer, if it has shaken hands with it from there."""
        member, tunnel = self.view.nodes.get(node), self.kernel_state.tunnel
        if tunnel is None or member is None or member.record is None:
            return None
        key = member.record.wireguard[0]
        status, peer = tunnel.status.get(key), tunnel.peers.get(key)
        return peer.endpoint if peer and status and status.last_handshake else None

    def name_of(self, node: str) -> str:
        member = self.view.nodes.get(node)
        return member.name if member else node

    def _seen(self, host: Host) -> None:
        self.kernel_state = host

    async def look(self) -> None:
        """Read the tunnel now, for a report that is fresh."""
        host = await asyncio.to_thread(self.machine.kernel.read, networks=())
        self.kernel_state = replace(self.kernel_state, tunnel=host.tunnel)

    # What is done about it

    async def run(self, *tasks: Callable[[], Coroutine[None, None, None]]) -> None:
        """Be the node until cancelled; `tasks` run beside it and end with it."""
        self._adopt()
        self.book.load()
        self._acquainted = frozenset(self._others()) if self.me and self.me.record else frozenset()
        self.changed()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self.reconciler.run())
            group.create_task(self.prober.run())
            group.create_task(self.mtus.run())
            group.create_task(self.exchange.run())
            for task in tasks:
                group.create_task(task())

    def _adopt(self) -> None:
        """Keep the port of a device that is there already, else take one that is free."""
        tunnel = self.machine.kernel.read(networks=()).tunnel
        self.kernel_state = Host(tunnel=tunnel)
        if tunnel is not None and tunnel.listen_port:
            self.listen_port = tunnel.listen_port
        else:
            self.listen_port = self.machine.find_free_port(self.settings.listen_port)

    async def _follow(self) -> None:
        rested, late = 0.0, Lateness()
        while True:
            if await happened(self._changed, self._nap()):
                due = max(time.monotonic() + SETTLE, rested)
                await asyncio.sleep(due - time.monotonic())
                late.add(time.monotonic() - due)
                await self.reconciler.idle(GIVE_WAY)
                await asyncio.sleep(ANSWER)
            self._changed.clear()
            started = time.monotonic()
            await self.settle()
            rested = time.monotonic() + rest(time.monotonic() - started, late.typical)

    def _nap(self) -> float:
        now = time.monotonic()
        expiry = self.view.statements.expires - time.time()
        trial = self.endpoints.next_event(now)
        return max(0.01, min(LONGEST_NAP, expiry, LONGEST_NAP if trial is None else trial))

    async def settle(self) -> None:
        """Bring all that follows from facts, ports and reach up to date."""
        self.book.refresh()
        if self._expected is None and self.state.complete:
            self._expected = frozenset(self._others())
        self._drop_vanished()
        self._point_probes()
        await self._bind()
        self.reconciler.wake()
        self.speak()
        for follower in self.followers:
            follower()

    def _drop_vanished(self) -> None:
        """Detach what has ended: the kernel says so before a container's engine does."""
        self.attachments.catch_up()
        self.book.catch_up()
        if not self.book.holds:
            self.changed()
        for item in self.attachments.vanished():
            log.info("namespace of attachment %s on %s is gone: detached", item.name, item.network)
            self.attachments.remove(item.network, item.name)
            self.changed()

    def _point_probes(self) -> None:
        others = {name: node.membership.address4 for name, node in self._others().items()}
        self.prober.set_peers(others if self.me else {})
        self.sightings.keep(others)
        reachable = self.liveness.reachable
        self._chosen = self.endpoints.step(self._contacts(reachable), reachable, time.monotonic())
        self._let_probe()
        self.measure()

    def measure(self) -> bool:
        """Follow the peers to where they are now; say whether that changes what should fit."""
        peers, tunnel = self._others() if self.me else {}, self.kernel_state.tunnel
        return self.mtus.refresh(peers, tunnel, self.liveness.reachable)

    def _others(self) -> dict[str, Node]:
        """Return the nodes there can be a tunnel to."""
        view, others = self._known_others
        if view is not self.view:
            view, nodes = self.view, self.view.nodes
            others = {name: nodes[name] for name in nodes if nodes[name].record and name != self.id}
            self._known_others = view, others
        return others

    def _let_probe(self) -> None:
        """Have those probed that the kernel has an endpoint of, and at once where that is new.

        A packet for another would have wireguard-go begin a handshake, send it nowhere, and begin
        no other for five seconds.
        """
        settled, seen = self.reconciler.settled.tunnel, self.kernel_state.tunnel
        held, pointed = set(), dict[str, Endpoint]()
        for name, node in self._others().items():
            if node.record is None or self.liveness.reach(name) is Reach.REACHABLE:
                continue
            given, known = (
                tunnel and tunnel.peers.get(node.record.wireguard[0]) for tunnel in (settled, seen)
            )
            if given and given.endpoint:
                pointed[name] = given.endpoint
            elif not (known and known.endpoint):
                held.add(name)
        self.prober.hold(held)
        self.prober.hurry(dict(pointed.items() - self._pointed.items()))
        self._pointed = pointed

    def _contacts(self, reachable: frozenset[str]) -> dict[str, Contact]:
        """Return how those may be reached that are not: there are few, most of the time."""
        me, mesh = self.me, self.view.statements.mesh
        if me is None or mesh is None or not self._configured:
            return {}
        own = [item.address for item in self._underlay]
        forbidden: list[Prefix] = [mesh.prefix4, mesh.prefix6]
        forbidden += [p for network in self.view.networks.values() for p in network.prefixes]
        mine = me.record_sequence or float("inf")
        return {
            name: Contact(
                ranked(node.record.candidates, own, forbidden),
                begin=name in self._acquainted or (mine, self.id) < (node.record_sequence, name),
            )
            for name, node in self._others().items()
            if node.record is not None and name not in reachable
        }

    async def _bind(self) -> None:
        if self.me is not None and not self._bound:
            address = self.me.membership.address4
            self.prober.open(address)
            await self.exchange.open(address)
            self._bound = True

    def _passed(self, outcome: Outcome) -> None:
        """Take another port when ours is another's by now, and see what became of containers whose
        ports cannot be set; after a clean pass we are ready."""
        for operation, error in outcome.failed:
            if isinstance(operation, ConfigureTunnel) and is_port_clash(error):
                self.listen_port = self.machine.find_free_port(self.listen_port + 1)
                log.warning("UDP port taken by another: using %d", self.listen_port)
                self.changed()
        if outcome.failed and self.attachments.vanished():
            self.changed()
        if outcome.audit:
            self._suspect_silent()
        if not self.reconciler.failing and not self._configured and self._is_ready():
            self._configured = True
            self.changed()
        self._greet(outcome)
        self._let_probe()
        if self.measure():
            self.changed()
        built = frozenset(self.reconciler.settled.segments)
        if built != self.built and not self.reconciler.failing:
            self.built = built
            for follower in self.followers:
                follower()

    def _suspect_silent(self) -> None:
        """Ask the peers that were sent something since the last audit and have said nothing."""
        before, tunnel = self._counted, self.kernel_state.tunnel
        self._counted = tunnel.status if tunnel else {}
        deaf = set(silent(before, self._counted))
        for name, node in self._others().items() if deaf else ():
            reachable = self.liveness.reach(name) is Reach.REACHABLE
            if reachable and node.record and node.record.wireguard[0] in deaf:
                self.prober.suspect(name)

    def _greet(self, outcome: Outcome) -> None:
        """Greet the peers that have another key: what both sides have to send waits for that."""
        new = new_keys(outcome.operations)
        others = self._others().items() if new else ()
        self.prober.greet(n for n, o in others if o.record and new & {*o.record.wireguard})

    def _is_ready(self) -> bool:
        """Say whether the kernel has all peers of the first full view, those that are left."""
        tunnel, others = self.reconciler.settled.tunnel, self._others()
        if self.me is None or self._expected is None or tunnel is None:
            return False
        records = (others[name].record for name in self._expected & others.keys())
        return all(record and record.wireguard[0] in tunnel.peers for record in records)

    @property
    def keys(self) -> tuple[PrivateKey, ...]:
        """This node's WireGuard keys: the one in use, then the one that is to follow, if any."""
        return (self.wireguard, self.next_key) if self.next_key else (self.wireguard,)

    @property
    def announced(self) -> tuple[PublicKey, ...]:
        """The keys that this node says it has."""
        return tuple(key.public for key in self.keys)

    def speak(self) -> None:
        """Say what this node is now, once it can be shaken hands with."""
        if self.me is None or not (self._configured or self.me.record):
            return
        said = self.book.say(self.records())
        if said:
            self.changed()
            for publish in self.publishers:
                publish(said)

    def records(self) -> list[Record]:
        """Return all that this node says of itself."""
        return [self._node_record(), *self.attachments.records()]

    def _node_record(self) -> NodeRecord:
        mtus = {way.address.ip: way.mtu for way in self.mtus.here}
        return NodeRecord(
            wireguard=self.announced,
            candidates=tuple(
                Candidate(Endpoint(address, self.listen_port), mtu=mtus[address])
                for address in sorted(mtus, key=str)
            ),
            mtu=self.mtus.own,
            version=__version__,
        )
