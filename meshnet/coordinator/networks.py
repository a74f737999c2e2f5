"""Shell. Networks, and the leases of their addresses."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from meshnet.coordinator import rules
from meshnet.coordinator.committer import Batch
from meshnet.coordinator.core import Core, claim_name, granted
from meshnet.coordinator.rules import Held
from meshnet.errors import BadInput, Conflict, NotFound, Refused
from meshnet.model.addresses import Address, Prefix, network_prefix6
from meshnet.model.facts import Fact
from meshnet.model.names import DEFAULT_NETWORK, check_name
from meshnet.model.statements import VNI_MAX, Lease, Membership, Network
from meshnet.wire.api import Granted, HeldLease, LeaseRequest, NetworkRequest

log = logging.getLogger(__name__)

BLOCKS_PER_NODE = 64
NETWORKS_LIMIT = 4096


class Networks:
    """Makes networks, and gives blocks of their prefixes to nodes."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # Networks

    async def create(self, request: NetworkRequest, by: str) -> Granted:
        """Make a network; Conflict when its name is taken."""
        check_name(request.name, "network")
        answer = await self._core.committer.do(lambda batch: self._create(batch, request))
        log.info("network %s made by %s", request.name, by)
        return answer

    async def _create(self, batch: Batch, request: NetworkRequest) -> Granted:
        networks = self._core.world.statements(batch.now).networks
        if len(networks) >= NETWORKS_LIMIT:
            raise Conflict(f"there are {NETWORKS_LIMIT} networks already", "Remove some.")
        async with batch.tx.savepoint():
            await claim_name(batch, request.name, "network", request.name)
            vni = batch.next_vni()
            if vni > VNI_MAX:
                raise Conflict("there is no VNI left")
            prefixes = self._prefixes(batch, request, vni)
        network = Network(request.name, vni, prefixes, request.flood, request.transient)
        return granted(batch, [batch.state(network)])

    def _prefixes(self, batch: Batch, request: NetworkRequest, vni: int) -> tuple[Prefix, ...]:
        """Return the prefixes asked for, and free ones for the families not spoken of."""
        mesh = self._core.mesh(batch.now)
        for prefix in request.prefixes:
            rules.check_network_prefix(prefix, (mesh.prefix4, mesh.prefix6))
        families = [prefix.version for prefix in request.prefixes]
        if len(families) != len(set(families)):
            raise BadInput(f"network {request.name} can have one prefix of each family")
        chosen: list[Prefix] = list(request.prefixes)
        if 4 not in families:
            terms = self._core.terms
            used = [mesh.prefix4, *self._used(batch)]
            chosen.append(rules.free_prefix4(terms.first_prefix4, terms.pool4, used))
        if 6 not in families:
            chosen.append(network_prefix6(mesh.prefix6, vni))
        return tuple(sorted(chosen, key=lambda prefix: prefix.version))

    def _used(self, batch: Batch) -> list[Prefix]:
        made = [fact.body for fact in batch.made() if isinstance(fact.body, Network)]
        networks = [*self._core.world.statements(batch.now).networks.values(), *made]
        return [prefix for network in networks for prefix in network.prefixes]

    async def remove(self, name: str, by: str) -> Granted:
        """Remove a network that nothing is attached to, and its leases."""
        answer = await self._core.committer.do(lambda batch: self._remove(batch, name))
        log.info("network %s removed by %s", name, by)
        return answer

    async def _remove(self, batch: Batch, name: str) -> Granted:
        self._network(name, batch.now)
        if name == DEFAULT_NETWORK:
            raise Refused(f"network {name} belongs to the mesh and stays")
        ports = sorted(
            f"{p.name} on {node}" for node, p in self._core.world.attached(name, batch.now)
        )
        if ports:
            more = f" and {len(ports) - 3} more" if len(ports) > 3 else ""
            raise Conflict(
                f"network {name} is in use by {', '.join(ports[:3])}{more}", "Detach these first."
            )
        return granted(batch, (await self._end(batch, name))[:1])

    async def _end(self, batch: Batch, name: str) -> list[Fact]:
        async with batch.tx.savepoint():
            await batch.tx.release_name(name, "network")
        gone = batch.unstate(Network.KIND, name)
        return [gone, *await self._take_back(batch, await batch.tx.leases(name))]

    async def leave(self, name: str, member: Membership) -> Granted:
        """Take back a node's leases of a network; a transient network ends with the last."""
        return await self._core.committer.do(lambda batch: self._leave(batch, name, member))

    async def _leave(self, batch: Batch, name: str, member: Membership) -> Granted:
        network = self._network(name, batch.now)
        leases = await batch.tx.leases(name)
        grace = self._core.terms.lease_grace
        mine = [lease for lease in leases if lease.node == member.node]
        others = [
            lease
            for lease in leases
            if lease.node != member.node and rules.is_taken(lease, batch.now, grace)
        ]
        if network.transient and not others:
            log.info("network %s has ended: node %s was the last", name, member.name)
            return granted(batch, await self._end(batch, name))
        return granted(batch, await self._take_back(batch, mine))

    async def _take_back(self, batch: Batch, leases: list[Held]) -> list[Fact]:
        async with batch.tx.savepoint():
            await batch.tx.drop_leases(leases)
        return [batch.unstate(Lease.KIND, f"{lease.network} {lease.prefix}") for lease in leases]

    # Leases

    async def lease(self, member: Membership, request: LeaseRequest) -> Granted:
        """Give a block or one address of a network; Conflict when there is none to give."""
        return await self._core.committer.do(lambda batch: self._lease(batch, member, request))

    async def _lease(self, batch: Batch, member: Membership, request: LeaseRequest) -> Granted:
        network = self._network(request.network, batch.now)
        held = [
            lease
            for lease in await batch.tx.leases(network.name)
            if rules.is_taken(lease, batch.now, self._core.terms.lease_grace)
        ]
        if request.address is not None:
            prefix = self._fixed(network, member, request.address, held)
            return granted(batch, await self._give(batch, network.name, member.node, [prefix]))
        mine = [
            lease.prefix
            for lease in held
            if lease.node == member.node and lease.prefix.version == request.family
        ]
        lost = [p for p in mine if p not in request.known and p.num_addresses > 1]
        prefixes = lost or [self._block(network, request, held, len(mine))]
        return granted(batch, await self._give(batch, network.name, member.node, prefixes))

    def _fixed(
        self, network: Network, member: Membership, address: Address, held: Iterable[Held]
    ) -> Prefix:
        rules.check_fixed(address, network.prefixes, network.name)
        prefix = rules.host_prefix(address)
        for lease in held:
            if not rules.overlap(lease.prefix, prefix):
                continue
            if lease.node == member.node:
                return lease.prefix
            raise Conflict(
                f"address {address} of network {network.name} is leased to node {lease.node}",
                "Choose an address nobody has.",
            )
        return prefix

    def _block(
        self, network: Network, request: LeaseRequest, held: list[Held], mine: int
    ) -> Prefix:
        if mine >= BLOCKS_PER_NODE:
            raise Refused(f"a node may hold {BLOCKS_PER_NODE} leases of a network")
        for prefix in network.prefixes:
            if prefix.version == request.family:
                taken = [lease.prefix for lease in held if lease.prefix.version == prefix.version]
                block = rules.pick_block(prefix, taken)
                if block is None:
                    raise Conflict(
                        f"network {network.name} is full: no address of {prefix} is free",
                        "Make a network with a larger prefix.",
                    )
                return block
        raise NotFound(f"network {network.name} has no IPv{request.family} prefix")

    async def _give(
        self, batch: Batch, network: str, node: str, prefixes: Iterable[Prefix]
    ) -> list[Fact]:
        ends = batch.now + self._core.terms.lease
        leases = [Held(network, prefix, node, ends) for prefix in prefixes]
        async with batch.tx.savepoint():
            await batch.tx.put_leases(leases)
        return [
            batch.state(Lease(network, node, lease.prefix, ends, issued=batch.now))
            for lease in leases
        ]

    async def keep_leases(self, batch: Batch, node: str, names: Iterable[HeldLease]) -> list[Fact]:
        """Renew those of `names` that `node` still holds, in networks that exist."""
        wanted = {(name.network, name.prefix) for name in names}
        networks = self._core.world.statements(batch.now).networks
        facts: list[Fact] = []
        for lease in await batch.tx.leases_of(node):
            held = rules.is_taken(lease, batch.now, self._core.terms.lease_grace)
            if held and (lease.network, lease.prefix) in wanted and lease.network in networks:
                facts += await self._give(batch, lease.network, node, [lease.prefix])
        return facts

    def _network(self, name: str, now: int) -> Network:
        network = self._core.world.network(name, now)
        if network is None:
            raise NotFound(f"there is no network {name[:80]!r}", "See `meshnet networks`.")
        return network
