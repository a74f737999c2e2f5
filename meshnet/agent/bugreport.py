"""Shell. A bundle of this node's state for those who help, without a single secret.

What goes in is chosen file by file: what the agent tells, what kernel tools print of what is ours,
its last log lines, versions. Key files, tokens and the coordinator's store are never read into
it. Whatever goes in is cleaned all the same: the node's keys in every usual spelling and all that
looks like a token are cut out, in case a log or somebody's text holds one.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import platform
import re
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from meshnet import __version__
from meshnet.agent.node import TUNNEL
from meshnet.agent.storage import StateDir
from meshnet.errors import Conflict, MeshnetError, Unavailable
from meshnet.linux import netns
from meshnet.linux.foreign import output
from meshnet.model.facts import FactSet
from meshnet.plan.state import NETNS_PREFIX, NFT_TABLE
from meshnet.wire.local import encode

CUT = b"[removed]"
TOKEN = re.compile(rb"mnt1\.[^\s\"'<>]*")
LOG_LINES = "500"

HOST = {
    "links.json": ("ip", "-j", "-d", "-s", "link"),
    "addresses.json": ("ip", "-j", "address"),
    "routes4.json": ("ip", "-j", "route", "show", "table", "all"),
    "routes6.json": ("ip", "-6", "-j", "route", "show", "table", "all"),
    "rules4.json": ("ip", "-j", "rule"),
    "rules6.json": ("ip", "-6", "-j", "rule"),
    "nft.json": ("nft", "-j", "list", "table", "inet", NFT_TABLE),
    # `show` hides private and preshared keys; `dump` and `showconf` do not.
    "wireguard.txt": ("wg", "show", TUNNEL),
}
"""What is printed of the host: tools that only look."""

NETWORK = {
    "links.json": ("ip", "-j", "-d", "-s", "link"),
    "addresses.json": ("ip", "-j", "address"),
    "neighbours.json": ("ip", "-j", "neighbour"),
    "fdb.json": ("bridge", "-j", "fdb"),
    "nft.json": ("nft", "-j", "list", "ruleset"),
}
"""What is printed of each network's namespace."""

LOGS = ("meshnet-agent", "meshnet-coordinator")
VERSIONS = {
    "nft": ("nft", "--version"),
    "iproute2": ("ip", "-V"),
    "wireguard-tools": ("wg", "--version"),
    "wireguard-go": ("wireguard-go", "--version"),
    "systemd": ("systemctl", "--version"),
}


def write(path: Path, state_dir: Path, told: Mapping[str, bytes]) -> list[str]:
    """Write the bundle to `path`, mode 0600; return the names of what is in it.

    `told` are files made elsewhere: what the agent says, what the doctor found. Conflict when
    there is such a file already.
    """
    files = {**told, **dict(_looked_at()), "facts.json": _facts(StateDir(state_dir))}
    clean = Cleaner(secrets(state_dir))
    cleaned = {name: clean(data) for name, data in sorted(files.items()) if data}
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise Conflict(f"{path} exists already", "Choose another file: --output.") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as bundle:
        for name, data in cleaned.items():
            info = tarfile.TarInfo(f"meshnet-bugreport/{name}")
            info.size, info.mode, info.mtime = len(data), 0o600, int(time.time())
            bundle.addfile(info, io.BytesIO(data))
    return list(cleaned)


def _facts(state: StateDir) -> bytes:
    """Return how many facts of each kind are on disk, and the digest of them all."""
    facts = FactSet()
    facts.merge(state.journal().load())
    kinds = Counter(fact.slot.kind for fact in facts)
    return encode({"digest": facts.digest, "kinds": dict(sorted(kinds.items()))})


def _looked_at() -> Iterator[tuple[str, bytes]]:
    yield "versions.txt", _versions().encode()
    for name, command in HOST.items():
        yield f"host/{name}", output(*command).encode()
    for unit in LOGS:
        lines = output("journalctl", "-u", unit, "-n", LOG_LINES, "--no-pager", "-o", "short-iso")
        yield f"log/{unit}.txt", lines.encode()
    for name in netns.named(NETNS_PREFIX):
        yield from _network(name)


def _network(name: str) -> Iterator[tuple[str, bytes]]:
    descriptor = netns.open_named(name)
    if descriptor is None:
        return
    network = name.removeprefix(NETNS_PREFIX)
    try:
        for file, command in NETWORK.items():
            with contextlib.suppress(MeshnetError):
                text = netns.inside(descriptor, "look at it", partial(output, *command))
                yield f"network/{network}/{file}", text.encode()
    finally:
        os.close(descriptor)


def _versions() -> str:
    lines = [
        f"meshnet {__version__}",
        f"Python {platform.python_version()}",
        f"Linux {platform.release()} {platform.machine()}",
    ]
    for program, command in VERSIONS.items():
        said = output(*command).splitlines()
        lines.append(f"{program}: {said[0] if said else 'not installed'}")
    return "\n".join(lines) + "\n"


def secrets(state_dir: Path) -> list[bytes]:
    """Return the secret keys of the node, none where it has not joined."""
    state = StateDir(state_dir)
    try:
        identity, wireguard = state.keys()
        following = state.next_key()
    except MeshnetError:
        return []
    return [identity.seed, wireguard.raw, *([following.raw] if following else [])]


class Cleaner:
    """Cuts secrets out of text: these, in every spelling, and all that looks like a token."""

    def __init__(self, hidden: Iterable[bytes]) -> None:
        spellings = {spelling for secret in hidden for spelling in _spellings(secret)}
        self._patterns = [re.compile(spelling) for spelling in sorted(spellings)]

    def __call__(self, data: bytes) -> bytes:
        for pattern in self._patterns:
            data = pattern.sub(CUT, data)
        return TOKEN.sub(b"mnt1." + CUT, data)


def _spellings(secret: bytes) -> Iterator[bytes]:
    """Yield patterns. 30 bytes are 40 characters of base64 whatever follows them."""
    yield re.escape(secret)
    yield b"(?i:" + secret.hex().encode() + b")"
    for spell in (base64.b64encode, base64.urlsafe_b64encode):
        yield re.escape(spell(secret[:30])) + rb"[A-Za-z0-9+/_=-]*"
