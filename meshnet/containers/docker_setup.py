"""Shell. The one setting of Docker's that meshnet needs: whom its containers ask for names.

    /etc/docker/daemon.json    {"dns": ["169.254.214.53", what was there], all else as it was}

Containers ask Docker's resolver, which passes on what it does not know to the servers of `dns`, in
the container's own namespace. Our address is the same everywhere, so the setting is, too. Without a
`dns` Docker takes the host's servers; these are then written down behind ours, for the time when
nobody answers there, and `docker-setup.json` in the state directory says that all of it is ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshnet.agent.resolver import host_upstreams
from meshnet.agent.storage import write_atomically
from meshnet.errors import BadInput, Unavailable
from meshnet.model.addresses import RESOLVER

DAEMON = Path("/etc/docker/daemon.json")
NOTE = "docker-setup.json"
KEY = "dns"

Config = dict[str, Any]


def with_ours(config: Config, upstreams: Sequence[str]) -> Config:
    """Return the settings with our resolver first; `upstreams` follow where nobody named any."""
    there = _servers(config)
    rest = [server for server in there or upstreams if server != str(RESOLVER)]
    return {**config, KEY: [str(RESOLVER), *rest]}


def without_ours(config: Config, made: Sequence[str]) -> Config:
    """Return the settings without our resolver; `made` is a list that was altogether ours."""
    there = _servers(config)
    rest = [server for server in there if server != str(RESOLVER)]
    if str(RESOLVER) in there and (not rest or there == list(made)):
        return {key: value for key, value in config.items() if key != KEY}
    return {**config, KEY: rest} if rest != there else config


def _servers(config: Config) -> list[str]:
    there = config.get(KEY, [])
    if not isinstance(there, list) or not all(isinstance(server, str) for server in there):
        raise BadInput(f"{KEY!r} in Docker's settings is no list of addresses", "Mend it first.")
    return there


def setup(state_dir: Path, path: Path = DAEMON) -> bool:
    """Have Docker's containers ask us; return whether that was a change."""
    text = _read(path)
    config = _parse(path, text)
    changed = with_ours(config, _upstreams())
    if changed == config:
        return False
    if not _servers(config):
        write_atomically(state_dir / NOTE, json.dumps(changed[KEY]).encode())
    _write(path, text, changed)
    return True


def undo(state_dir: Path, path: Path = DAEMON) -> bool:
    """Take our resolver out of Docker's settings; return whether it was there."""
    text = _read(path)
    note = state_dir / NOTE
    made = json.loads(note.read_bytes()) if note.exists() else []
    changed = without_ours(_parse(path, text), made)
    note.unlink(missing_ok=True)
    if changed == _parse(path, text):
        return False
    _write(path, text, changed)
    return True


def _upstreams() -> list[str]:
    """Return the host's servers, less those that a container cannot reach."""
    servers = host_upstreams([str(RESOLVER)])
    return [server for server in servers if not server.startswith("127.") and server != "::1"]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"{path} cannot be read: {error}") from error


def _parse(path: Path, text: str) -> Config:
    try:
        config = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise BadInput(
            f"{path} is no JSON: {error}", "Mend it first: Docker needs it, too."
        ) from error
    if not isinstance(config, dict):
        raise BadInput(f"{path} holds no object", "Mend it first: Docker needs it, too.")
    return config


def _write(path: Path, before: str, config: Config) -> None:
    """Replace the file, indented as it was; one that would hold nothing goes."""
    indent = re.search(r'\n([ \t]+)"', before)
    text = json.dumps(config, indent=indent[1] if indent else 4, ensure_ascii=False) + "\n"
    path = path.resolve()
    try:
        if not config:
            path.unlink()
            return
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from error
    write_atomically(path, text.encode(), mode)
