"""Shell. Taking everything of ours away, with or without a running agent.

What is ours is known by its mark in the kernel, not from memory, so this also clears what an agent
of another version or a lost state directory left behind.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from meshnet.agent.client import CoordinatorClient
from meshnet.agent.storage import Settings, StateDir
from meshnet.dns.feed import stop_server
from meshnet.errors import MeshnetError, Refused
from meshnet.linux import resolvconf
from meshnet.linux.port import Kernel
from meshnet.model.keys import SigningKey

log = logging.getLogger(__name__)


def take_away(kernel: Kernel, run_dir: Path) -> list[str]:
    """End the DNS server and remove all that is marked ours; return a line for each thing."""
    lines = _restore_resolver() + stop_server(run_dir / "dns.sock")
    return lines + kernel.purge()


def _restore_resolver() -> list[str]:
    """Have the host ask others again, before our server ends. A fault keeps nothing else here."""
    try:
        return [f"removed our lines from {resolvconf.PATH}"] if resolvconf.remove() else []
    except MeshnetError as error:
        return [f"{error.message}: take our lines out by hand"]


def leave(state_dir: Path) -> str:
    """Tell a coordinator that this node leaves for good; return what came of it.

    Raises Unavailable or PinMismatch when none that can be trusted answers.
    """
    state = StateDir(state_dir)
    if not state.joined:
        return "this machine had not joined: there is nobody to tell"
    settings = state.settings()
    try:
        asyncio.run(_leave(settings, state.keys()[0]))
    except Refused as error:
        return f"the coordinator had let go of {settings.name} before: {error.message}"
    except MeshnetError as error:
        raise type(error)(
            f"{settings.name} could not tell that it leaves: {error.message}",
            f"Its name stays taken. On the coordinator: meshnet node revoke {settings.name}",
        ) from error
    return f"{settings.name} has left the mesh: its name is free"


async def _leave(settings: Settings, identity: SigningKey) -> None:
    client = CoordinatorClient(settings.urls, settings.pins, identity)
    try:
        await client.leave()
    finally:
        await client.close()


def down(state_dir: Path, run_dir: Path, *, purge: bool) -> list[str]:
    """Do it without an agent; with `purge` the state directory goes as well."""
    from meshnet.agent.node import TUNNEL
    from meshnet.linux.backend import find_carrier
    from meshnet.linux.kernel import LinuxKernel

    lines = take_away(LinuxKernel(find_carrier(TUNNEL), TUNNEL), run_dir)
    (run_dir / "agent.sock").unlink(missing_ok=True)
    if purge:
        lines += StateDir(state_dir).purge()
    return lines
