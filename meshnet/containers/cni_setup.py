"""Shell. Puts the CNI plugin, and a configuration if asked, where a container runtime looks.

What is put there starts the interpreter without `site` and without the environment (`-IS`): that
is a quarter of the plugin's time, and nobody's PYTHONPATH has a say in it. So it names the places
of our packages itself, and has to be written anew when they move.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec

from meshnet.errors import BadInput, Unavailable
from meshnet.wire.cni import ANNOTATIONS

PLUGIN = "meshnet-cni"
CONFIGURATION = "10-meshnet.conflist"
NEEDED = ("meshnet", "msgspec")
"""Packages of which the plugin must know the place."""

MARK = "# Put here by `meshnet cni setup`; with --undo it goes again."
LAUNCHER = """#!{python} -IS
{mark}
import sys

sys.path += {places}

from meshnet.containers.cni import run

sys.exit(run())
"""


def setup(plugins: Path, configurations: Path | None, network: str) -> list[Path]:
    """Write plugin and configuration; return what was written. One that is there stays."""
    written = [_write(plugins / PLUGIN, launcher(), 0o755)]
    if configurations is not None and not (configurations / CONFIGURATION).exists():
        text = msgspec.json.format(msgspec.json.encode(configuration(network)), indent=2).decode()
        written.append(_write(configurations / CONFIGURATION, text + "\n", 0o644))
    return written


def undo(plugins: Path, configurations: Path | None) -> list[Path]:
    """Remove what `setup` wrote; return what was removed."""
    gone = []
    for path in _ours(plugins, configurations):
        try:
            path.unlink()
        except OSError as error:
            raise Unavailable(f"{path} cannot be removed: {error.strerror}") from error
        gone.append(path)
    return gone


def _ours(plugins: Path, configurations: Path | None) -> Iterator[Path]:
    plugin = plugins / PLUGIN
    if plugin.is_file() and not plugin.is_symlink() and MARK in plugin.read_text():
        yield plugin
    if configurations is not None and (configurations / CONFIGURATION).is_file():
        yield configurations / CONFIGURATION


def launcher() -> str:
    """Return the plugin as a program of its own."""
    if any(character.isspace() for character in sys.executable) or len(sys.executable) > 200:
        raise BadInput(
            f"{sys.executable} cannot start a script: its path has spaces or is too long",
            "Install meshnet under another path.",
        )
    specs = [find_spec(name) for name in NEEDED]
    places = [str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin]
    return LAUNCHER.format(python=sys.executable, mark=MARK, places=list(dict.fromkeys(places)))


def configuration(network: str) -> dict[str, object]:
    """Return a configuration in which our plugin gives a container its only interface."""
    told = {"ips": True, "aliases": True, ANNOTATIONS: True}
    ours = {"type": PLUGIN, "network": network, "capabilities": told}
    return {"cniVersion": "1.0.0", "name": "meshnet", "plugins": [ours]}


def _write(path: Path, text: str, mode: int) -> Path:
    """Put a file there at once and whole: a runtime may be about to start it."""
    aside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text)
        aside.chmod(mode)
        aside.replace(path)
    except OSError as error:
        why = f"{path} cannot be written: {error.strerror}"
        raise Unavailable(why, "Run this as root, or name another directory.") from error
    return path
