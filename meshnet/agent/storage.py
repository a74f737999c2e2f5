"""Shell. The agent's files: keys, settings, attachments, and the journal of facts.

    STATE_DIR/keys.json          identity seed and WireGuard key, mode 0600; rewritten only where
                                 the latter is changed (`agent.rotation`)
    STATE_DIR/node.json          mesh root key, coordinators, name, settings
    STATE_DIR/attachments.json   what this node has attached, and its service instances
    STATE_DIR/facts.ndjson       every fact taken in, one line each; compacted at start
    STATE_DIR/docker.json        which of Docker's networks is which of the mesh's; its driver's

Small files are replaced atomically (write aside, fsync, rename, fsync of the directory). Facts are
appended and fsynced before they count; a line cut short by a crash is dropped on the next start.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from meshnet.errors import BadInput, Conflict, MeshnetError, NotFound, Unavailable
from meshnet.model.attached import LocalAttachment
from meshnet.model.facts import Fact
from meshnet.model.keys import IdentityKey, PrivateKey, SigningKey
from meshnet.wire import codec
from meshnet.wire.fact import SignedFact, open_fact, seal
from meshnet.wire.local import HostDnsMode

log = logging.getLogger(__name__)
T = TypeVar("T")

FILES = ("keys.json", "node.json", "attachments.json", "facts.ndjson", "complete", "docker.json")

LOST_NODE = (
    "Put a copy of it back, or have this machine join anew: meshnet down --purge, then meshnet join"
    " with a new token."
)
DAMAGED = {
    "keys.json": LOST_NODE,
    "node.json": LOST_NODE,
    "attachments.json": "Put a copy of it back, or move it away and attach what is to be attached"
    " again; until then all goes on as it is, without an agent.",
}
"""What to do where a file has lost what it held, as by a power cut on a bad disk. The journal of
facts is not among them: what it lost is told again by coordinators and peers."""


class KeyFile(msgspec.Struct, frozen=True):
    """The secrets of a node, base64. Never printed. `next`: the key that is to follow, or none."""

    identity: str
    wireguard: str
    next: str = ""

    def __repr__(self) -> str:
        return "KeyFile(hidden)"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a node was told when it joined, and what its administrator chose."""

    root: IdentityKey
    name: str
    urls: tuple[str, ...]
    pins: tuple[str, ...]
    listen_port: int = 51820
    host_networks: tuple[str, ...] = ("default",)
    dns_forward: bool = True
    dns_host: HostDnsMode = "auto"


def hold(directory: Path) -> int:
    """Keep other agents off a directory until the descriptor that is returned is closed.

    Conflict when one is there. The lock is on the directory itself: nothing has to be written.
    """
    with _storage_errors(directory):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Conflict(
            f"an agent is running on {directory} already", "See `meshnet status`, or stop it first."
        ) from error
    return descriptor


class StateDir:
    """The state directory of one node."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def joined(self) -> bool:
        return (self.path / "node.json").exists()

    @property
    def complete(self) -> bool:
        """Whether the journal has ever held a full view."""
        return (self.path / "complete").exists()

    def mark_complete(self) -> None:
        write_atomically(self.path / "complete", b"")

    def create(self) -> None:
        """Make the directory, readable by root only."""
        with _storage_errors(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def purge(self) -> list[str]:
        """Remove what an agent keeps here; what others keep beside it stays."""
        gone = []
        for name in (*FILES, *(f".{name}.new" for name in FILES)):
            path = self.path / name
            if path.exists():
                path.unlink()
                gone.append(f"removed {path}")
        with contextlib.suppress(OSError):
            self.path.rmdir()
        return gone

    def keys(self) -> tuple[SigningKey, PrivateKey]:
        """Return the node's keys; NotFound before it has joined."""
        stored = self._read("keys.json", KeyFile)
        return SigningKey(self._secret(stored.identity)), PrivateKey(self._secret(stored.wireguard))

    def next_key(self) -> PrivateKey | None:
        """Return the WireGuard key that is to follow the one in use, None when none is."""
        stored = self._read("keys.json", KeyFile)
        return PrivateKey(self._secret(stored.next)) if stored.next else None

    def make_keys(self) -> tuple[SigningKey, PrivateKey]:
        """Return the node's keys, making them the first time."""
        with contextlib.suppress(NotFound):
            return self.keys()
        identity, wireguard = SigningKey(os.urandom(32)), new_key()
        self.save_keys(identity, wireguard)
        return identity, wireguard

    def save_keys(
        self, identity: SigningKey, wireguard: PrivateKey, following: PrivateKey | None = None
    ) -> None:
        """Write the node's keys down, and the one that is to follow if any."""
        secrets = (identity.seed, wireguard.raw, following.raw if following else b"")
        self._write("keys.json", KeyFile(*(base64.b64encode(one).decode() for one in secrets)))

    def _secret(self, text: str) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise BadInput(f"{self.path}/keys.json holds no keys", LOST_NODE) from error

    def settings(self) -> Settings:
        """Return the node's settings; NotFound before it has joined."""
        return self._read("node.json", Settings)

    def save_settings(self, settings: Settings) -> None:
        self._write("node.json", settings)

    def attachments(self) -> tuple[LocalAttachment, ...]:
        """Return the attachments of the last run, none the first time."""
        try:
            return self._read("attachments.json", tuple[LocalAttachment, ...])
        except NotFound:
            return ()

    def save_attachments(self, attachments: Iterable[LocalAttachment]) -> None:
        self._write("attachments.json", tuple(attachments))

    def journal(self) -> Journal:
        return Journal(self.path / "facts.ndjson")

    def _read(self, name: str, kind: type[T]) -> T:
        path = self.path / name
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"{path} does not exist", "Join a mesh first: meshnet join.") from error
        except OSError as error:
            raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
        try:
            return codec.decode(data, kind, str(path))
        except BadInput as error:
            raise BadInput(error.message, DAMAGED[name]) from error

    def _write(self, name: str, value: object) -> None:
        write_atomically(self.path / name, codec.encode(value) + b"\n")


def new_key() -> PrivateKey:
    """Return a WireGuard key that nobody has."""
    return PrivateKey.from_random(os.urandom(32))


class Journal:
    """The facts on disk, in the order they came."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> list[Fact]:
        """Return the facts of the journal that are whole; what is damaged is left out, and said."""
        try:
            with self._path.open("rb") as lines:
                return list(self._whole(lines))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Unavailable(
                f"{self._path} cannot be read: {error.strerror}",
                "Move it away: all that is in it is told again by coordinators and peers.",
            ) from error

    def _whole(self, lines: Iterable[bytes]) -> Iterator[Fact]:
        for number, line in enumerate(lines, 1):
            try:
                yield open_fact(codec.decode(line.rstrip(b"\n"), SignedFact, "journal line"))
            except MeshnetError as error:
                log.warning("journal %s line %d dropped: %s", self._path, number, error.message)

    def append(self, facts: Iterable[Fact]) -> None:
        """Add facts; they are on the disk when this returns."""
        data = b"".join(codec.encode(seal(fact)) + b"\n" for fact in facts)
        if not data:
            return
        with _storage_errors(self._path), self._path.open("ab", buffering=0) as file:
            os.fchmod(file.fileno(), 0o600)
            start, left = file.tell(), memoryview(data)
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                # A line cut short would spoil the one that is appended to it next.
                with contextlib.suppress(OSError):
                    file.truncate(start)
                raise

    def compact(self, facts: Iterable[Fact]) -> None:
        """Replace the journal by one that holds these facts only."""
        # Line by line: what is held in memory for a moment is kept from others for long.
        _write_all(self._path, (codec.encode(seal(fact)) + b"\n" for fact in facts))


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file by `data`: after a crash it is the old one or the new one."""
    _write_all(path, [data], mode)


def _write_all(path: Path, parts: Iterable[bytes], mode: int = 0o600) -> None:
    aside = path.with_name(f".{path.name}.new")
    with _storage_errors(path):
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.writelines(parts)
                file.flush()
                os.fsync(descriptor)
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Map OSError to Unavailable, naming the file."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be written: {error.strerror}",
            "Free disk space or mend the file system's permissions, then try again.",
        ) from error
