"""Shell. The doctor: gathers what a diagnosis is made from, and has `plan.diagnose` judge.

The node asked is a living agent's, or one put together from the state directory where no agent
answers: the same facts, the same kernel, only what an agent alone knows (whom its probes reach)
is tried by hand. Everything is looked at now; nothing is changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from meshnet.agent.client import CoordinatorClient
from meshnet.agent.machine import this_machine
from meshnet.agent.node import TUNNEL, MeshNode
from meshnet.agent.resolver import look_up
from meshnet.agent.sockets import AGENT_PORT
from meshnet.agent.storage import StateDir
from meshnet.errors import BadInput, MeshnetError, NotFound
from meshnet.linux import foreign, netns, probe
from meshnet.linux.backend import pick_backend
from meshnet.linux.kernel import LinuxKernel
from meshnet.linux.neighbours import turned_away
from meshnet.linux.sysctl import tracked
from meshnet.linux.ways import ways
from meshnet.linux.wireguard import is_port_free
from meshnet.model.addresses import Address, Endpoint, gateway
from meshnet.model.names import ZONE
from meshnet.model.records import Attachment
from meshnet.model.view import Node
from meshnet.plan.diagnose import diagnose
from meshnet.plan.diff import plan
from meshnet.plan.evidence import (
    Asked,
    Evidence,
    Subject,
    Tried,
    Way,
    certificate_of,
    ends_inside,
    resolve,
)
from meshnet.plan.firewall import Drop, find_drop
from meshnet.plan.packets import frames, host_packets
from meshnet.plan.state import HOST, NETNS_PREFIX, Host, Peer, Port
from meshnet.wire.local import Diagnosis, Finding

COORDINATOR_LIMIT = 4.0
ECHO_WAIT = 4.0
"""Seconds for the first echo: a handshake that was lost is tried again after five (WireGuard)."""
INSIDE_WAIT = 2.0
SMALL = 84
TRIED_BY_HAND = 16
"""Peers that are tried without an agent; it knows all by its probes."""


async def examine_files(state_dir: Path, a: str, b: str) -> Diagnosis:
    """Examine without an agent: the node as its files and the kernel have it."""
    state = StateDir(state_dir)
    try:
        for read in (state.keys, state.settings, state.attachments):
            read()
    except NotFound as error:
        return _no_node(f"this machine is no node: {error.message}", error.hint)
    except BadInput as error:
        return _no_node(error.message, error.hint)
    kernel = LinuxKernel(pick_backend(), TUNNEL)
    try:
        node = MeshNode(state, this_machine(kernel))
        node.book.facts.merge(state.journal().load())
        node.book.refresh(list(node.book.facts))
        tunnel = kernel.read(networks=()).tunnel
        if tunnel is not None and tunnel.listen_port:
            node.listen_port = tunnel.listen_port
        node.kernel_state = Host(tunnel=tunnel)
        node.measure()
        return await Doctor(node, alive=False).examine(a, b)
    finally:
        kernel.close()


def _no_node(text: str, do: str) -> Diagnosis:
    finding = Finding(check="identity", state="wrong", text=text, do=do, first=True)
    return Diagnosis(subject="this machine", at="", findings=(finding,), agent=False)


class Doctor:
    """Examines one node."""

    def __init__(self, node: MeshNode, *, alive: bool) -> None:
        self._node = node
        self._alive = alive

    async def examine(self, a: str, b: str) -> Diagnosis:
        """Return what is wrong with this node, or between `a` and `b`; both '' or neither."""
        here, peer = self._ends(a, b)
        before = turned_away()
        evidence = await self._known(here, peer)
        tried = await self._try(evidence)
        reached = None if tried.answered is False else await self._reach(evidence)
        evidence = replace(
            evidence,
            tried=replace(tried, reached=reached),
            unreachable=await self._unreachable(evidence),
            asked=await self._ask_dns(),
            turned_away=_grown(before, turned_away()),
        )
        drops = await asyncio.to_thread(lambda: tuple(self._drops(evidence)))
        return diagnose(replace(evidence, drops=drops))

    def _ends(self, a: str, b: str) -> tuple[Subject | None, Subject | None]:
        """Return (our end, the other), whichever way they were named."""
        if not a or not b:
            return None, None
        own = self._node.id
        first, second = (resolve(self._node.view, word, own) for word in (a, b))
        if second.node and second.node.id == own and not (first.node and first.node.id == own):
            return second, first
        return first, second

    async def _known(self, here: Subject | None, peer: Subject | None) -> Evidence:
        node = self._node
        want, unread = node.desired(), None
        try:
            have = await asyncio.to_thread(node.machine.kernel.read)
        except MeshnetError as error:
            have, unread = Host(), (error.message, error.hint)
        offset, no_coordinator = await self._clock()
        wanted = want.tunnel.listen_port if want.tunnel else 0
        actual = have.tunnel.listen_port if have.tunnel else 0
        unknown = [end.word for end in (here, peer) if end and not end.node]
        return Evidence(
            now=int(time.time()),
            own=node.id,
            view=node.view,
            want=want,
            have=have,
            certificate=certificate_of(node.book.facts, node.id),
            drift=tuple(plan(want, have)) if want.tunnel and not unread else (),
            unread=unread,
            foreign_key=bool(have.tunnel and have.tunnel.private_key != node.wireguard),
            offset=offset,
            no_coordinator=no_coordinator,
            agent=self._alive,
            here=here,
            peer=peer,
            peer_certificate=certificate_of(node.book.facts, unknown[0] if unknown else ""),
            digest=node.book.facts.digest,
            peer_digest=node.digests.get(peer.node.id, "") if peer and peer.node else "",
            port_taken=bool(wanted and not actual and not unread and not is_port_free(wanted)),
            port_open=not actual or not is_port_free(actual),
            gone=tuple(item.netns for item in node.attachments.vanished()),
            ways=await asyncio.to_thread(self._ways, peer, want),
            underlay=tuple((item.link, item.address) for item in node.machine.underlay()),
            endpoint=await asyncio.to_thread(self._endpoint, peer, have),
            tracked=tracked(),
            refused=tuple(node.reconciler.failing),
            absent=node.attachments.absent,
            unwritten=node.book.fault or node.attachments.fault,
        )

    def _ways(self, peer: Subject | None, want: Host) -> tuple[Way, ...]:
        """Return by which links the kernel sends to the peer in question, or to some of all, and to
        the networks that this host is on."""
        nodes = [peer.node] if peer and peer.node else list(self._node.view.nodes.values())
        others = [node.membership for node in nodes if node.id != self._node.id][:TRIED_BY_HAND]
        wanted: dict[Address, str] = {}
        for one in others:
            wanted |= dict.fromkeys((one.address4, one.address6), TUNNEL)
        for network, segment in want.segments.items():
            for port in (port for port in segment.ports.values() if port.netns == HOST):
                prefixes = self._node.view.networks[network].prefixes
                wanted |= dict.fromkeys(map(gateway, prefixes), port.interface)
        six = self._node.machine.ipv6
        asked = [address for address in wanted if six or address.version == 4]
        found = ways(asked) if asked else {}
        return tuple(Way(address, found[address], wanted[address]) for address in asked)

    def _endpoint(self, peer: Subject | None, have: Host) -> tuple[Endpoint, str] | None:
        """Return where the peer is, as the kernel has it, and by which link that is reached."""
        record = peer.node.record if peer and peer.node else None
        known = have.tunnel.peers.get(record.wireguard[0]) if have.tunnel and record else None
        if known is None or known.endpoint is None:
            return None
        (link,) = ways([known.endpoint.address]).values()
        return known.endpoint, link

    async def _clock(self) -> tuple[int | None, str]:
        """Return the coordinator's clock less ours in seconds, or why it is not known."""
        settings = self._node.settings
        client = CoordinatorClient(settings.urls, settings.pins, self._node.identity)
        before = time.time()
        try:
            async with asyncio.timeout(COORDINATOR_LIMIT):
                hello = await client.hello()
            return round(hello.time + 0.5 - (before + time.time()) / 2), ""
        except MeshnetError as error:
            return None, error.message
        except TimeoutError:
            return None, f"{client.url} does not answer"
        finally:
            await client.close()

    # What is tried

    async def _try(self, evidence: Evidence) -> Tried:
        peer = evidence.peer.node if evidence.peer else None
        if evidence.me is None or peer is None or evidence.local or evidence.onlooker:
            return Tried()
        if evidence.have.tunnel is None or peer.record is None:
            return Tried(answered=False)
        source, address = evidence.me.membership.address4, peer.membership.address4
        size = self._node.mtus.limit(peer.id) or evidence.have.tunnel.mtu
        return await asyncio.to_thread(_try, address, source, evidence.have.tunnel.name, size)

    async def _reach(self, evidence: Evidence) -> bool | None:
        """Say whether the other attachment answers an echo from ours; None when not tried."""
        ends = ends_inside(evidence)
        if ends is None or evidence.onlooker or ends[0] == ends[1]:
            return None
        ours, theirs = ends
        segment = evidence.want.segments.get(ours.network)
        ports = segment.ports.values() if segment else ()
        port = next((port for port in ports if port.mac == ours.mac), None)
        source, address = _ipv4(ours), _ipv4(theirs)
        if port is None or source is None or address is None:
            return None
        return await asyncio.to_thread(_echo_from, port, address, source)

    async def _unreachable(self, evidence: Evidence) -> tuple[str, ...]:
        """Return the names of peers that are not reached; of a pair seen from outside, of those."""
        if evidence.me is None or (evidence.peer and not evidence.onlooker):
            return ()
        ends = [end.node for end in (evidence.here, evidence.peer) if end and end.node]
        nodes = ends or list(evidence.view.nodes.values())
        others = sorted(
            (node for node in nodes if node.record and node.id != evidence.own),
            key=lambda node: node.name,
        )
        if self._alive:
            return tuple(n.name for n in others if n.id not in self._node.liveness.reachable)
        return await self._silent(evidence.me, others[:TRIED_BY_HAND])

    async def _silent(self, me: Node, others: Sequence[Node]) -> tuple[str, ...]:
        source = me.membership.address4
        answers = await asyncio.gather(
            *(
                asyncio.to_thread(
                    probe.echo, other.membership.address4, source, TUNNEL, SMALL, ECHO_WAIT
                )
                for other in others
            )
        )
        return tuple(n.name for n, fine in zip(others, answers, strict=True) if not fine)

    async def _ask_dns(self) -> tuple[Asked, ...]:
        me = self._node.me
        if me is None:
            return ()
        server, name = str(me.membership.address4), f"{me.name}.{ZONE}"
        try:
            answer = await look_up([server], name, "A")
        except MeshnetError as error:
            return (Asked(server, name, error=error.message),)
        found = frozenset(record.data for record in answer.answers)
        return (Asked(server, name, frozenset({server}), found, answer.rcode),)

    # Who drops what

    def _drops(self, evidence: Evidence) -> Iterator[Drop]:
        if evidence.want.tunnel is None or evidence.onlooker:
            return
        tunnel = evidence.have.tunnel or evidence.want.tunnel
        port = tunnel.listen_port or evidence.want.tunnel.listen_port
        versions = sorted({item.address.version for item in self._node.machine.underlay()})
        rules = foreign.rules()
        peers = [] if evidence.local else list(self._peers(evidence))
        for packet in host_packets(port, tunnel.name, peers, versions):
            if drop := find_drop(rules, packet):
                yield drop
        for network in sorted(evidence.want.segments):
            yield from _frame_drops(network)

    def _peers(self, evidence: Evidence) -> Iterable[tuple[Endpoint, Address]]:
        peer = evidence.peer.node if evidence.peer else None
        if peer is None or peer.record is None or evidence.have.tunnel is None:
            return
        known = evidence.have.tunnel.peers.get(peer.record.wireguard[0], Peer(frozenset()))
        if known.endpoint is not None:
            yield known.endpoint, peer.membership.address4


def _try(address: IPv4Address, source: IPv4Address, device: str, size: int) -> Tried:
    if not probe.echo(address, source, device, SMALL, ECHO_WAIT):
        return Tried(answered=False, size=size)
    passes = probe.echo(address, source, device, size, 4 * probe.EVERY)
    largest = size if passes else probe.largest_echo(address, source, device, size)
    down = probe.is_closed(address, AGENT_PORT)
    return Tried(answered=True, size=size, passes=passes, largest=largest, agent_down=down)


def _grown(before: int | None, after: int | None) -> int:
    """Return by how much a counter has grown; 0 where it was not told both times."""
    return 0 if before is None or after is None else after - before


def _ipv4(attachment: Attachment) -> IPv4Address | None:
    return next((one for one in attachment.addresses if isinstance(one, IPv4Address)), None)


def _echo_from(port: Port, address: IPv4Address, source: IPv4Address) -> bool | None:
    """Echo from a port's own namespace; None where that cannot be entered."""
    echo = partial(probe.echo, address, source, port.interface, SMALL, INSIDE_WAIT)
    if port.netns == HOST:
        return echo()
    try:
        descriptor = netns.open_path(port.netns, port.inode)
    except MeshnetError:
        return None
    try:
        return netns.inside(descriptor, f"send an echo from {port.netns}", echo)
    finally:
        os.close(descriptor)


def _frame_drops(network: str) -> Iterator[Drop]:
    descriptor = netns.open_named(NETNS_PREFIX + network)
    if descriptor is None:
        return
    try:
        with contextlib.suppress(MeshnetError):
            rules = netns.inside(descriptor, "list rules", foreign.rules)
            if drop := find_drop(rules, frames(network)):
                yield drop
    finally:
        os.close(descriptor)
