"""Shell. What `meshnet cni|podman setup` has put beside engines, so that a purge finds it.

    STATE_DIR/setups.json    {"/opt/cni/bin/meshnet-cni": SHA-256 of what was written there, …}

A runtime that finds our configuration and no agent starts no container, so nothing of it may be
left when a node has gone. What somebody has changed since is his, and stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from meshnet.agent.storage import StateDir, write_atomically
from meshnet.containers import launcher
from meshnet.errors import MeshnetError
from meshnet.wire import codec

NOTE = "setups.json"


def note(state_dir: Path, paths: Iterable[Path]) -> None:
    """Remember that these files, as they are now, are ours."""
    StateDir(state_dir).create()
    _write(state_dir, {**_read(state_dir), **{str(path.absolute()): _sum(path) for path in paths}})


def forget(state_dir: Path, paths: Iterable[Path]) -> None:
    """Files that are gone need not be remembered."""
    gone, known = {str(path.absolute()) for path in paths}, _read(state_dir)
    if gone & known.keys():
        _write(state_dir, {path: digest for path, digest in known.items() if path not in gone})


def undo(state_dir: Path) -> list[str]:
    """Take away what is as we wrote it; return a line for each file that there is."""
    lines = [_undo(Path(path), digest) for path, digest in sorted(_read(state_dir).items())]
    (state_dir / NOTE).unlink(missing_ok=True)
    return [line for line in lines if line]


def _undo(path: Path, digest: str) -> str:
    if not path.is_file():
        return ""
    try:
        if path.is_symlink() or _sum(path) != digest:
            return f"{path}: left alone, for it was changed since meshnet wrote it"
        return f"{launcher.remove(path)}: removed"
    except (MeshnetError, OSError) as error:
        return f"{path}: left, {error}"


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(state_dir: Path) -> dict[str, str]:
    path = state_dir / NOTE
    return codec.decode(path.read_bytes(), dict[str, str], str(path)) if path.exists() else {}


def _write(state_dir: Path, known: dict[str, str]) -> None:
    if known:
        write_atomically(state_dir / NOTE, codec.encode(known) + b"\n")
    else:
        (state_dir / NOTE).unlink(missing_ok=True)
