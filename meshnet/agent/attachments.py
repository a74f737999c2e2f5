"""Shell. What this node has attached: kept on disk, published as records, wanted in the kernel.

The list on disk is the node's intent and outlives the agent. An attachment whose namespace is gone
(its path leads elsewhere or nowhere, or the machine has booted since) is dropped on sight. One that
cannot be written down is not made, but one is taken away all the same: containers must end where a
disk is full, or it stays so. The file is written as soon as it can be.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

import msgspec

from meshnet.agent.storage import StateDir
from meshnet.errors import BadInput, Conflict, NotFound, Unavailable
from meshnet.model.addresses import Address
from meshnet.model.attached import LocalAttachment, LocalInstance
from meshnet.model.names import name_from
from meshnet.model.records import Attachment, Instance, Record, ServicePort
from meshnet.plan.desired import LocalPort
from meshnet.plan.state import HANDED, HOST

log = logging.getLogger(__name__)

Key = tuple[str, str]

NS_GET_NSTYPE, CLONE_NEWNET = 0xB703, 0x40000000
"""ioctl_ns(2): the kind of a namespace."""

_address = lru_cache(maxsize=1 << 16)(ip_address)
"""The addresses of all attachments are read in every pass."""


def boot_id() -> str:
    """Return the kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def namespace_inode(path: str) -> int:
    """Return the inode of the network namespace of a container that a path leads to.

    NotFound when it leads nowhere, BadInput when to something else or to the host's own namespace.
    """
    own = _own_namespace()
    try:
        found = Path(path).stat()
    except OSError as error:
        raise NotFound(
            f"network namespace {path} does not exist: {error.strerror}",
            "Give the path of a namespace, such as /run/netns/NAME, or the pid of a process in it.",
        ) from error
    if found.st_dev != own.st_dev or not _is_network(path):
        raise BadInput(f"{path} is no network namespace", "Give one such as /run/netns/NAME.")
    if found.st_ino == own.st_ino:
        raise BadInput(
            f"{path} is the host's own network namespace",
            "Attach the host itself with meshnet attach --host.",
        )
    return found.st_ino


@lru_cache(maxsize=1)
def _own_namespace() -> os.stat_result:
    return Path("/proc/self/ns/net").stat()


def _is_network(path: str) -> bool:
    """Say of a namespace whether it is one of the network: other kinds lie beside them."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return fcntl.ioctl(descriptor, NS_GET_NSTYPE) == CLONE_NEWNET
    finally:
        os.close(descriptor)


class Attachments:
    """The attachments of this node, by (network, name)."""

    def __init__(
        self, state: StateDir, boot: str, inode_of: Callable[[str], int] = namespace_inode
    ) -> None:
        self._state = state
        self._inode_of = inode_of
        self._boot = boot
        self._is_behind = False
        self.fault = ""
        self.absent: tuple[str, str] | None = None
        """Why this host is not on a network it should be on, and what to do."""
        self._take({(item.network, item.name): item for item in state.attachments()})

    def _take(self, items: dict[Key, LocalAttachment]) -> None:
        self._items = items
        self._by_owner = {item.owner: item for item in items.values() if item.owner}
        self._groups = {owner.rpartition("/")[0] for owner in self._by_owner}

    def __iter__(self) -> Iterator[LocalAttachment]:
        return iter([self._items[key] for key in sorted(self._items)])

    def get(self, network: str, name: str) -> LocalAttachment:
        """Return one attachment; NotFound when there is none of that name."""
        try:
            return self._items[network, name]
        except KeyError:
            raise NotFound(
                f"this node has no attachment {name} on network {network}",
                "See meshnet attachments.",
            ) from None

    def owned(self, owner: str) -> LocalAttachment:
        """Return the attachment of an owner; NotFound when there is none."""
        try:
            return self._by_owner[owner]
        except KeyError:
            raise NotFound(
                f"this node has no attachment of {owner}", "See meshnet attachments."
            ) from None

    def has_group(self, group: str) -> bool:
        """Say whether somebody owns one whose key is `group`, a slash and one word more."""
        return group in self._groups

    def put(self, item: LocalAttachment) -> None:
        """Add or replace one; it is on disk when this returns."""
        self._save({**self._items, (item.network, item.name): item})

    def rename(self, item: LocalAttachment, name: str) -> LocalAttachment:
        """Give one another name, which nobody has: what it is in the kernel stays."""
        renamed = msgspec.structs.replace(item, name=name)
        others = {key: value for key, value in self._items.items() if value is not item}
        self._save({**others, (item.network, name): renamed})
        return renamed

    def remove(self, network: str, name: str) -> LocalAttachment:
        """Take one away, on disk as soon as it can be; NotFound when there is none of that name."""
        item = self.get(network, name)
        self._take({key: value for key, value in self._items.items() if value is not item})
        self._is_behind = True
        self.catch_up()
        return item

    def catch_up(self) -> None:
        """Write down what could not be written before."""
        if not self._is_behind:
            return
        try:
            self._save(self._items)
        except Unavailable as error:
            if not self.fault:
                log.error("what is detached is not written down yet: %s", error.message)
            self.fault = error.message

    def _save(self, items: dict[Key, LocalAttachment]) -> None:
        self._state.save_attachments(items[key] for key in sorted(items))
        self._take(items)
        self._is_behind, self.fault = False, ""

    def used(self, network: str) -> set[Address]:
        """Return the addresses in use on a network."""
        return {
            _address(address)
            for item in self._items.values()
            if item.network == network
            for address in item.addresses
        }

    def networks(self) -> set[str]:
        return {network for network, _ in self._items}

    def free_name(self, network: str, base: str) -> str:
        """Return a name nobody has on this network, made from `base`."""
        label = name_from(base)[:50] or "c"
        if (network, label) not in self._items:
            return label
        return next(
            name
            for number in range(2, len(self._items) + 3)
            if (network, name := f"{label}-{number}") not in self._items
        )

    def free_interface(self, inode: int) -> str:
        """Return the next interface name in a namespace: mesh0, mesh1, …"""
        used = {item.interface for item in self._items.values() if item.inode == inode}
        return next(name for n in range(len(used) + 1) if (name := f"mesh{n}") not in used)

    def check_new(self, network: str, name: str, inode: int, interface: str) -> None:
        """Raise Conflict when the name or the interface is taken."""
        if (network, name) in self._items:
            raise Conflict(
                f"this node has an attachment {name} on network {network} already",
                f"Choose another --name, or detach it: meshnet detach {name} --network {network}.",
            )
        for item in self._items.values():
            if item.inode == inode and not item.host and item.interface == interface:
                where = item.netns
                raise Conflict(f"interface {interface} in {where} belongs to {item.name} already")

    def check_owner(self, owner: str) -> None:
        """Raise Conflict when the owner has an attachment; one whose namespace is gone goes."""
        try:
            item = self.owned(owner)
        except NotFound:
            return
        if not self._is_gone(item):
            raise Conflict(f"{owner} is attached already, as {item.name} on {item.network}")
        self.remove(item.network, item.name)

    def vanished(self) -> list[LocalAttachment]:
        """Return the attachments whose namespace is gone."""
        return [item for item in self._items.values() if not item.host and self._is_gone(item)]

    def _is_gone(self, item: LocalAttachment) -> bool:
        if item.boot != self._boot:
            return True
        if item.netns == HANDED:
            return False
        try:
            return self._inode_of(item.netns) != item.inode
        except (NotFound, BadInput):
            return True

    def ports(self) -> tuple[LocalPort, ...]:
        """Return what planning needs to know of them."""
        return tuple(
            LocalPort(
                _attachment(item),
                HOST if item.host else item.netns,
                0 if item.host else item.inode,
                item.interface,
            )
            for item in self._items.values()
        )

    def records(self) -> list[Record]:
        """Return what this node says of them: an attachment each, and their instances."""
        records: list[Record] = []
        for item in self._items.values():
            records.append(_attachment(item))
            records += [_instance(item, instance) for instance in item.instances]
        return records


def with_instance(item: LocalAttachment, instance: LocalInstance) -> LocalAttachment:
    """Return the attachment with this instance in place of one of the same service."""
    others = [known for known in item.instances if known.service != instance.service]
    return msgspec.structs.replace(item, instances=(*others, instance))


def with_health(item: LocalAttachment, *, healthy: bool) -> LocalAttachment:
    """Return the attachment with all its instances healthy, or none."""
    replace = msgspec.structs.replace
    instances = tuple(replace(instance, healthy=healthy) for instance in item.instances)
    return replace(item, instances=instances)


def without_instance(item: LocalAttachment, service: str) -> LocalAttachment:
    """Return the attachment without its instance of a service; NotFound when it has none."""
    others = tuple(known for known in item.instances if known.service != service)
    if len(others) == len(item.instances):
        raise NotFound(f"attachment {item.name} is no instance of service {service}")
    return msgspec.structs.replace(item, instances=others)


def _attachment(item: LocalAttachment) -> Attachment:
    return _made(item.network, item.name, item.addresses, item.mac, item.host)


@lru_cache(maxsize=1 << 14)
def _made(network: str, name: str, texts: tuple[str, ...], mac: str, host: bool) -> Attachment:
    """Return an attachment: all of them are asked for in every pass."""
    return Attachment(network, name, tuple(map(_address, texts)), mac, host=host)


def _instance(item: LocalAttachment, instance: LocalInstance) -> Instance:
    return Instance(
        network=item.network,
        service=instance.service,
        attachment=item.name,
        ports=tuple(ServicePort(*port) for port in instance.ports),  # type: ignore[arg-type]
        healthy=instance.healthy,
        weight=instance.weight,
        metadata=instance.metadata,
    )
