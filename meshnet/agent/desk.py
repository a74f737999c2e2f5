"""Shell. What people and engines ask of a node: attach, detach, services, networks.

An attach is done when the kernel has it: addresses are taken from the node's leases (a coordinator
is asked only when these are full), the attachment is written down and made in the next pass, which
many attaches share. If the kernel refuses, all of it is taken back; else the mesh is told of it in
the node's next round, when nobody waits any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Protocol

import msgspec

from meshnet.agent.attachments import with_health, with_instance, without_instance
from meshnet.agent.node import MeshNode
from meshnet.agent.report import service_name
from meshnet.errors import BadInput, Conflict, MeshnetError, NotFound, Unavailable
from meshnet.model.addresses import Address, Prefix, attachment_mac, gateway
from meshnet.model.attached import LocalAttachment, LocalInstance
from meshnet.model.names import DEFAULT_NETWORK, ZONE, check_name
from meshnet.model.records import ServicePort
from meshnet.model.statements import Lease, Network
from meshnet.plan.allocate import check_fixed, exhausted, is_nearly_full, next_free
from meshnet.plan.desired import host_interface, on_link
from meshnet.plan.operations import BuildSegment, SetPort
from meshnet.plan.state import HANDED, handed_interface
from meshnet.wire.local import (
    Attached,
    AttachRequest,
    PortSpec,
    Reserved,
    ReserveRequest,
    ServiceRequest,
)

log = logging.getLogger(__name__)

INTERFACE_LIMIT = 15
RESERVED_FOR = 60.0
"""Seconds for which a reserved address is kept."""


class Lessor(Protocol):
    """Who gives leases: the uplink to a coordinator."""

    async def lease(self, network: str, family: int, address: Address | None = None) -> None:
        """Return when the view holds another lease; Unavailable when nobody can be asked."""

    async def leave(self, network: str) -> None:
        """Return when this node's leases of a network are given back."""


class Desk:
    """Carries out requests, one at a time up to the point where the kernel works on them."""

    def __init__(self, node: MeshNode, lessor: Lessor) -> None:
        self._node = node
        self._lessor = lessor
        self._turn = asyncio.Lock()
        self._last: dict[tuple[str, int], Address] = {}
        self._reserved: dict[tuple[str, Address], float] = {}

    async def attach(self, request: AttachRequest) -> Attached:
        """Attach a namespace; the interface is there when this returns."""
        async with self._turn:
            item = await self._new_item(request)
            self._node.attachments.put(item)
        try:
            await self._carry_out(item)
        except MeshnetError:
            self._forget(item)
            raise
        return self.describe(item)

    async def _new_item(self, request: AttachRequest) -> LocalAttachment:
        network = self.network(request.network)
        instances = self._instances(request)
        self._node.attachments.check_owner(request.owner)
        if request.handed:
            netns, inode, interface = HANDED, 0, HANDED
            name = request.name or self._free_name(network.name, request, "c")
        elif request.host:
            netns, inode, interface = "", 0, host_interface(network.name)
            name = self._own_name()
        else:
            netns = _netns_path(request)
            inode = self._node.machine.namespace_inode(netns)
            interface = request.interface or self._node.attachments.free_interface(inode)
            name = request.name or self._free_name(network.name, request, netns)
        _check_interface(interface)
        check_name(name, "attachment")
        self._node.attachments.check_new(network.name, name, inode, interface)
        addresses = await self._addresses(network, request.addresses, handed=request.handed)
        mac = attachment_mac(network.vni, addresses[0])
        return LocalAttachment(
            network=network.name,
            name=name,
            addresses=tuple(str(address) for address in addresses),
            mac=mac,
            interface=handed_interface(_veth(mac)) if request.handed else interface,
            netns=netns,
            inode=inode,
            boot=self._node.machine.boot,
            host=request.host,
            instances=instances,
            owner=request.owner,
        )

    def _own_name(self) -> str:
        if self._node.me is None:
            raise Unavailable("this node is no member of the mesh yet", "See meshnet status.")
        return self._node.me.name

    def _free_name(self, network: str, request: AttachRequest, netns: str) -> str:
        if request.basis:
            return self._node.attachments.free_name(network, request.basis)
        base = request.service or netns.rsplit("/", 1)[-1]
        base = f"c{request.pid}" if request.pid and not request.service else base
        return self._node.attachments.free_name(network, f"{base}-{self._own_name()}")

    def network(self, name: str) -> Network:
        """Return a network of the mesh; NotFound when there is none of that name."""
        network = self._node.view.networks.get(name)
        if network is None:
            raise NotFound(
                f"there is no network {name}", f"Make it: meshnet network create {name}."
            )
        return network

    async def _addresses(
        self, network: Network, fixed: tuple[str, ...], *, handed: bool
    ) -> list[Address]:
        """Return the fixed addresses and, unless an engine has all it wants, one of each family."""
        if handed and not fixed:
            raise BadInput("an interface handed over needs the addresses that it will have")
        chosen = [_parse_address(text) for text in fixed]
        prefixes = self._usable(network, chosen)
        for address in chosen:
            await self._ensure_fixed(network, address)
        families = {address.version for address in chosen}
        if len(families) != len(chosen):
            raise BadInput("an attachment has one address of each family at most")
        for prefix in prefixes:
            if prefix.version not in families and not handed:
                chosen.append(await self._next(network, prefix.version))
        return sorted(chosen, key=lambda address: address.version)

    def _usable(self, network: Network, fixed: Iterable[Address] = ()) -> Sequence[Prefix]:
        """Return the prefixes of a network that this machine can have addresses in."""
        if self._node.machine.ipv6:
            return network.prefixes
        usable = [prefix for prefix in network.prefixes if prefix.version == 4]
        if not usable or any(address.version == 6 for address in fixed):
            raise Unavailable(
                f"the kernel of this host has no IPv6 for network {network.name}",
                "Boot it without ipv6.disable=1, or use a network and addresses of IPv4.",
            )
        return usable

    async def _ensure_fixed(self, network: Network, address: Address) -> None:
        used = self._node.attachments.used(network.name)
        leases = self.leases(network.name, address.version)
        if not check_fixed(network, leases, used, address):
            await self._lessor.lease(network.name, address.version, address)

    async def make_ready(self, name: str) -> None:
        """Return when an attach to a network could be given its addresses; take none."""
        async with self._turn:
            network = self.network(name)
            for prefix in self._usable(network):
                await self._free(network, prefix.version)

    async def _next(self, network: Network, family: int) -> Address:
        address = await self._free(network, family)
        self._last[network.name, family] = address
        return address

    async def _free(self, network: Network, family: int) -> Address:
        """Return an address to be given next, out of another lease when ours are full."""
        last = self._last.get((network.name, family))
        used = self._node.attachments.used(network.name) | self._kept(network.name)
        address = next_free(network, self.leases(network.name, family), used, last)
        if address is None:
            await self._lessor.lease(network.name, family)
            address = next_free(network, self.leases(network.name, family), used, last)
        if address is None:
            raise exhausted(network.name)
        return address

    async def reserve(self, request: ReserveRequest) -> Reserved:
        """Keep an address for RESERVED_FOR; whoever asks for it by name gets it."""
        async with self._turn:
            network = self.network(request.network)
            if request.address:
                address = _parse_address(request.address)
                await self._ensure_fixed(network, address)
            else:
                address = await self._next(network, request.family)
            self._reserved[network.name, address] = time.monotonic() + RESERVED_FOR
        with_length = str(on_link(network, [address])[0])
        return Reserved(address=with_length, mac=attachment_mac(network.vni, address))

    async def leave(self, name: str) -> None:
        """Give back this node's leases of a network; Conflict while it has something there."""
        async with self._turn:
            network = self.network(name)
            if name in self._node.attachments.networks() or self._kept(name):
                raise Conflict(f"network {name} is in use on this node")
            if self.leases(name, 4) or self.leases(name, 6) or network.transient:
                await self._lessor.leave(name)

    def release(self, network: str, address: str) -> None:
        """Keep an address no longer."""
        self._reserved.pop((network, _parse_address(address)), None)

    def _kept(self, network: str) -> set[Address]:
        now = time.monotonic()
        self._reserved = {key: until for key, until in self._reserved.items() if until > now}
        return {address for name, address in self._reserved if name == network}

    def leases(self, network: str, family: int) -> list[Lease]:
        """Return this node's leases of one network and family."""
        return [
            lease
            for lease in self._node.view.statements.leases.get(self._node.id, ())
            if lease.network == network and lease.prefix.version == family
        ]

    def nearly_full(self, network: str, family: int) -> bool:
        """Say whether the node should ask for another block in good time."""
        leases = self.leases(network, family)
        return is_nearly_full(leases, self._node.attachments.used(network))

    async def _carry_out(self, item: LocalAttachment) -> None:
        self._node.changed()
        outcome = await self._node.reconciler.soon()
        for operation, error in outcome.failed:
            if isinstance(operation, SetPort) and operation.name == _veth(item.mac):
                raise error
            if isinstance(operation, BuildSegment) and operation.network == item.network:
                raise error

    def _forget(self, item: LocalAttachment) -> None:
        try:
            self._node.attachments.remove(item.network, item.name)
        except NotFound:
            return
        self._node.speak()
        self._node.changed()

    async def check(self, owner: str) -> Attached:
        """Return what an owner's attachment was given; Conflict when the kernel differs."""
        item = self._node.attachments.owned(owner)
        for operation in await self._node.reconciler.preview():
            if isinstance(operation, SetPort) and operation.name == _veth(item.mac):
                raise Conflict(f"attachment {item.name} is not as it should be: {operation}")
        return self.describe(item)

    async def detach(
        self, network: str = "", name: str = "", *, owner: str = ""
    ) -> LocalAttachment:
        """Take an attachment away, by its owner or its name: first its facts, then its interface.

        It is looked for in turn: whoever gave an attach up and asks for this has nothing left.
        """
        known = self._node.attachments
        async with self._turn:
            item = known.owned(owner) if owner else known.get(network, name)
            if item.host:
                raise Conflict(f"attachment {item.name} on {item.network} is the host's own")
            known.remove(item.network, item.name)
        self._node.speak()
        self._node.changed()
        await self._node.reconciler.soon()
        return item

    def add_service(self, request: ServiceRequest) -> LocalAttachment:
        """Make an attachment (the host's own by default) an instance of a service."""
        name = request.attachment or self._own_name()
        item = self._node.attachments.get(request.network, name)
        return self._put(with_instance(item, self._instance(request.service, request)))

    def remove_service(self, network: str, service: str, attachment: str) -> LocalAttachment:
        """Make an attachment an instance of this service no longer."""
        item = self._node.attachments.get(network, attachment or self._own_name())
        return self._put(without_instance(item, service))

    def set_health(self, item: LocalAttachment, *, healthy: bool) -> LocalAttachment:
        """Have an attachment's instances answered, or not."""
        changed = with_health(item, healthy=healthy)
        return item if changed == item else self._put(changed)

    def _put(self, changed: LocalAttachment) -> LocalAttachment:
        self._node.attachments.put(changed)
        self._said()
        return changed

    def rename(self, item: LocalAttachment, basis: str) -> LocalAttachment:
        """Give an attachment a name made from `basis`: its addresses and its interface stay."""
        name = self._node.attachments.free_name(item.network, basis)
        renamed = self._node.attachments.rename(item, name)
        self._said()
        return renamed

    def knows(self, group: str) -> bool:
        """Say whether there is an attachment whose owner's key is `group` and one word more."""
        return self._node.attachments.has_group(group)

    def attached(self) -> list[LocalAttachment]:
        """Return what is attached on this node."""
        return list(self._node.attachments)

    def _said(self) -> None:
        self._node.speak()
        self._node.changed()

    def _instances(self, request: AttachRequest) -> tuple[LocalInstance, ...]:
        """Return what an attachment is an instance of. An alias that cannot be one is left out: it
        was given for other reasons, and keeps no container from starting."""
        asked = [self._instance(request.service, request)] if request.service else []
        for alias in request.aliases:
            bare = ServiceRequest(service=alias, ports=() if asked else request.ports)
            try:
                asked.append(self._instance(alias, bare))
            except (BadInput, Conflict) as error:
                log.info("alias %s is left out: %s", alias[:63], error.message)
        if not request.healthy:
            asked = [msgspec.structs.replace(instance, healthy=False) for instance in asked]
        return tuple({instance.service: instance for instance in reversed(asked)}.values())

    def _instance(self, service: str, request: AttachRequest | ServiceRequest) -> LocalInstance:
        view = self._node.view
        taken = "node" if view.named(service) else "network" if service in view.networks else ""
        if taken:
            raise Conflict(
                f"service {service} cannot be told from the {taken} of that name",
                "Choose another service name.",
            )
        return _instance(service, request)

    def describe(self, item: LocalAttachment) -> Attached:
        """Return what an attachment was given."""
        network = self.network(item.network)
        addresses = [ip_address(address) for address in item.addresses]
        prefixes = self._usable(network)
        gateways = tuple(str(gateway(prefix)) for prefix in prefixes)
        middle = "" if network.name == DEFAULT_NETWORK else f".{network.name}"
        services = [service_name(instance.service, network.name) for instance in item.instances]
        return Attached(
            network=network.name,
            name=item.name,
            interface=item.interface,
            addresses=tuple(str(interface) for interface in on_link(network, addresses)),
            mac=item.mac,
            mtu=self._node.network_mtu,
            gateways=gateways,
            dns=gateways,
            routes=tuple(str(prefix) for prefix in prefixes),
            names=tuple(dict.fromkeys([f"{item.name}{middle}.{ZONE}", *services])),
        )


def _veth(mac: str) -> str:
    return "p" + mac.replace(":", "")


def _netns_path(request: AttachRequest) -> str:
    if bool(request.netns) == bool(request.pid):
        raise BadInput("give a namespace either by path or by pid", "See meshnet attach --help.")
    return request.netns or f"/proc/{request.pid}/ns/net"


def _check_interface(name: str) -> None:
    fits = 0 < len(name) <= INTERFACE_LIMIT and not any(c in "/: \t\n" for c in name)
    if not fits or name in (".", "..") or not name.isascii() or not name.isprintable():
        raise BadInput(f"{name[:40]!r} cannot name an interface", "Use at most 15 characters.")


def _parse_address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise BadInput(f"{text[:60]!r} is not an IP address") from error


def _instance(service: str, request: AttachRequest | ServiceRequest) -> LocalInstance:
    check_name(service, "service")
    ports = tuple(_port(port) for port in request.ports)
    if not 0 <= request.weight < 65536:
        raise BadInput(f"weight {request.weight} is not between 0 and 65535")
    return LocalInstance(
        service=service, ports=ports, weight=request.weight, metadata=request.metadata
    )


def _port(port: PortSpec) -> tuple[int, str, str]:
    checked = ServicePort(port.number, port.protocol, port.name)
    return checked.number, checked.protocol, checked.name
