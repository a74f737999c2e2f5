"""Shell. Taking everything of ours away, with or without a running agent.

What is ours is known by its mark in the kernel, not from memory, so this also clears what an agent
of another version or a lost state directory left behind.
"""

from __future__ import annotations

import logging
from pathlib import Path

from meshnet.agent.storage import StateDir
from meshnet.dns.feed import stop_server
from meshnet.errors import MeshnetError
from meshnet.linux import resolvconf
from meshnet.linux.port import Kernel

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
