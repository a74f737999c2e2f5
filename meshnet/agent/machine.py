"""Shell. The machine that a node is on: what a node needs of it, and the one that we run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshnet.agent.attachments import boot_id, namespace_inode
from meshnet.agent.sockets import MeshSockets, Sockets
from meshnet.linux.port import Kernel
from meshnet.linux.sysctl import speaks_ipv6
from meshnet.linux.underlay import UnderlayAddress, underlay
from meshnet.linux.wireguard import find_free_port
from meshnet.paths.liveness import PROBES_PER_SECOND


@dataclass(frozen=True, slots=True)
class Machine:
    """What a node needs of the machine it is on. `ipv6`: whether its kernel speaks that at all."""

    kernel: Kernel
    underlay: Callable[[], list[UnderlayAddress]]
    find_free_port: Callable[[int], int]
    namespace_inode: Callable[[str], int]
    boot: str
    sockets: Sockets
    probes_per_second: float = PROBES_PER_SECOND
    ipv6: bool = True


def this_machine(kernel: Kernel) -> Machine:
    """Return the machine that we run on."""
    return Machine(
        kernel,
        underlay,
        find_free_port,
        namespace_inode,
        boot_id(),
        MeshSockets(),
        ipv6=speaks_ipv6(),
    )
