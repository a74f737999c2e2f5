"""Shell. The coordinator's directory: configuration, keys, certificate, store.

config.json   where it listens, under which URLs it is known, its terms, the root's public key
root.key      seed of the root key; needed to certify an issuing key and for nothing else, so
              it can be kept somewhere else
issuer.key    seed of the issuing key
tls.key, tls.crt
lock          held while a coordinator runs
store.sqlite  with its -wal and -shm while it runs
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from meshnet.coordinator.core import Terms
from meshnet.errors import BadInput, Conflict, NotFound, Unavailable
from meshnet.model.keys import IdentityKey, SigningKey
from meshnet.wire import codec

DEFAULT_PORT = 7443
DEFAULT_STATE_DIR = Path("/var/lib/meshnet/coordinator")
DEFAULT_RUN_DIR = Path("/run/meshnet")
SOCKET = "coordinator.sock"


class Listen(msgspec.Struct, frozen=True):
    """A TCP address to listen on; the host `` means all of both families."""

    host: str = ""
    port: int = DEFAULT_PORT

    @classmethod
    def parse(cls, text: str) -> Listen:
        """Read `HOST:PORT`, `[V6]:PORT`, `:PORT` or `PORT`; raise BadInput otherwise."""
        host, _, port = text.rpartition(":")
        if not (port.isascii() and port.isdigit() and 0 <= int(port) < 65536):
            raise BadInput(f"{text[:80]!r} is not HOST:PORT", "Give for example 0.0.0.0:7443.")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Config(msgspec.Struct, frozen=True):
    """What `init` wrote down."""

    root: IdentityKey
    urls: tuple[str, ...]
    listen: tuple[Listen, ...] = (Listen(),)
    terms: Terms = Terms()


@dataclass(frozen=True, slots=True)
class Directory:
    """The files of a coordinator."""

    path: Path

    @property
    def store(self) -> Path:
        return self.path / "store.sqlite"

    @property
    def certificate(self) -> Path:
        return self.path / "tls.crt"

    @property
    def tls_key(self) -> Path:
        return self.path / "tls.key"

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def initialised(self) -> bool:
        return self.config_file.exists()

    def config(self) -> Config:
        """Read the configuration; NotFound when there is none."""
        return codec.decode(self._read("config.json"), Config, str(self.config_file))

    def write_config(self, config: Config) -> None:
        self.write("config.json", msgspec.json.format(codec.encode(config), indent=2) + b"\n")

    def key(self, name: str) -> SigningKey:
        """Read `root` or `issuer`."""
        try:
            return SigningKey(bytes.fromhex(self._read(f"{name}.key").decode().strip()))
        except ValueError as error:
            raise BadInput(f"{self.path}/{name}.key is no key file") from error

    def write_key(self, name: str, key: SigningKey) -> None:
        self.write(f"{name}.key", key.seed.hex().encode() + b"\n")

    def write(self, name: str, data: bytes) -> None:
        """Write a file that root alone can read, all of it or nothing."""
        path = self.path / name
        draft = path.with_suffix(path.suffix + ".new")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            draft.replace(path)
            self._sync()
        except OSError as error:
            raise Unavailable(f"cannot write {path}: {error.strerror}") from error

    def make(self) -> None:
        """Make the directory; Conflict when a coordinator lives there already."""
        if self.initialised:
            raise Conflict(
                f"there is a coordinator in {self.path} already",
                "Run it by `meshnet coordinator run`, or give another --state-dir.",
            )
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"cannot make {self.path}: {error.strerror}") from error

    def lock(self) -> int:
        """Keep others off while this process works here; Conflict when one does already.

        Return the descriptor that holds the lock until it is closed.
        """
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"cannot use {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise Conflict(
                f"a coordinator is running on {self.path}", "Stop that one first."
            ) from error
        return descriptor

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(
                f"there is no {self.path / name}",
                "Set a coordinator up: `meshnet coordinator init`.",
            ) from error
        except OSError as error:
            raise Unavailable(f"cannot read {self.path / name}: {error.strerror}") from error
