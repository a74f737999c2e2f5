"""Shell. Puts the CNI plugin, and a configuration if asked, where a container runtime looks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from meshnet.containers import launcher
from meshnet.wire.cni import ANNOTATIONS

PLUGIN = "meshnet-cni"
CONFIGURATION = "10-meshnet.conflist"


def setup(plugins: Path, configurations: Path | None, network: str) -> list[Path]:
    """Write plugin and configuration; return what was written. One that is there stays."""
    written = [launcher.put(plugins / PLUGIN, "cni", "cni")]
    if configurations is not None and not (configurations / CONFIGURATION).exists():
        text = msgspec.json.format(msgspec.json.encode(configuration(network)), indent=2).decode()
        written.append(launcher.write(configurations / CONFIGURATION, text + "\n", 0o644))
    return written


def undo(plugins: Path, configurations: Path | None) -> list[Path]:
    """Remove what `setup` wrote; return what was removed."""
    return [launcher.remove(path) for path in _ours(plugins, configurations)]


def _ours(plugins: Path, configurations: Path | None) -> Iterator[Path]:
    if launcher.is_ours(plugins / PLUGIN, "cni"):
        yield plugins / PLUGIN
    if configurations is not None and (configurations / CONFIGURATION).is_file():
        yield configurations / CONFIGURATION


def configuration(network: str) -> dict[str, object]:
    """Return a configuration in which our plugin gives a container its only interface."""
    told = {"ips": True, "aliases": True, ANNOTATIONS: True}
    ours = {"type": PLUGIN, "network": network, "capabilities": told}
    return {"cniVersion": "1.0.0", "name": "meshnet", "plugins": [ours]}
