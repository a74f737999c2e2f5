"""Driver. WireGuard outside the kernel: wireguard-go, by its socket.

The daemon makes a tun device and listens on /run/wireguard/NAME.sock. The dialogue
(wireguard.com/xplatform) is text, keys in hexadecimal, one operation a connection:

    us → daemon   get=1 ⏎ ⏎
    daemon → us   private_key=… listen_port=… fwmark=… { public_key=… endpoint=… allowed_ip=… … }
                  errno=0 ⏎ ⏎

    us → daemon   set=1 ⏎ public_key=… ⏎ allowed_ip=192.0.2.0/24 ⏎ allowed_ip=-198.51.100.0/24 ⏎ ⏎
    daemon → us   errno=0 ⏎ ⏎

What comes before a line that is refused has been applied.

The daemon puts itself in the background, in a session of its own, and so outlives the agent: its
first process opens tun and socket, tells by its exit status how that went, and leaves the rest to
a child that belongs to init. Whoever finds the socket answering goes on with that daemon. Removing
the socket file ends it, and its device goes with it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

from meshnet.errors import KernelRefused, MeshnetError, Unavailable
from meshnet.linux.wireguard import Device, port_in_use, refused
from meshnet.linux.wireguard_base import RealWireGuard
from meshnet.linux.wireguard_link import delete_link
from meshnet.model.addresses import Endpoint, Prefix
from meshnet.model.keys import PresharedKey, PrivateKey, PublicKey
from meshnet.plan.operations import PeerChange
from meshnet.plan.state import Peer, PeerStatus

BINARY = "wireguard-go"
SOCKETS = Path("/run/wireguard")

_START_SECONDS = 10.0
_STOP_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
_SEND_BYTES = 16_384

_CACHED = 4096
"""The same text comes with every answer, so what is costly to parse is remembered by it."""


class WireGuardGo(RealWireGuard):
    """WireGuard devices of the current network and mount namespace, one daemon each."""

    kind = "tun"

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, Parsed] = {}

    @functools.cached_property
    def backend(self) -> str:
        """`wireguard-go VERSION`, as the installed program says."""
        answer = _run([_find_binary(), "--version"])
        words = answer.stdout.split()
        version = words[1].removeprefix("v") if len(words) > 1 else "of unknown version"
        return f"{BINARY} {version}"

    def _make(self, name: str) -> None:
        SOCKETS.mkdir(mode=0o700, parents=True, exist_ok=True)
        answer = _run([_find_binary(), name])
        if answer.returncode:
            words = answer.stderr.strip().splitlines()
            raise Unavailable(
                f"wireguard-go cannot make device {name}: {words[-1] if words else 'no reason'}",
                "Check that /dev/net/tun is there (`modprobe tun`).",
            )
        # The child sets an MTU of its own before it answers for the first time.
        self._fetch(name)

    def _destroy(self, name: str) -> None:
        """Take the socket away and wait for the daemon's end, which frees the device's port."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(_STOP_SECONDS)
            with contextlib.suppress(OSError):
                channel.connect(str(_socket_path(name)))
                _socket_path(name).unlink()
                channel.recv(1)
        _socket_path(name).unlink(missing_ok=True)
        delete_link(name)

    def _fetch(self, name: str) -> Device:
        answer = _exchange(name, ["get=1", ""], f"read WireGuard device {name}")
        return parse_device(answer, self._known)

    def _set_device(self, name: str, key: PrivateKey, port: int, fwmark: int) -> None:
        device = self._fetch(name)
        lines = [f"private_key={key.raw.hex()}"]
        # The daemon would close and open its socket again, and lose what arrives meanwhile.
        lines += [f"listen_port={port}"] if port != device.listen_port else []
        lines += [f"fwmark={fwmark}"] if fwmark != device.fwmark else []
        try:
            self._set(name, lines, f"set key, port {port} and fwmark {fwmark} of {name}")
        except KernelRefused as error:
            if error.errno == errno.EADDRINUSE:
                raise port_in_use(name, port) from error
            raise

    def _set_peers(self, name: str, changes: Sequence[PeerChange]) -> None:
        if changes:
            lines = format_peers(self._begin_anew(name, changes))
            self._set(name, lines, f"change {len(changes)} peers of {name}")

    def _begin_anew(self, name: str, changes: Sequence[PeerChange]) -> list[PeerChange]:
        """Have peers made anew that get their first endpoint.

        The daemon begins a handshake also with a peer that it does not know the place of, and then
        no other for five seconds. Without an endpoint there never was a session to be lost.
        """
        pointed = [one.key for one in changes if one.endpoint and not one.add and not one.remove]
        known = self._fetch(name).peers if pointed else {}
        return [
            step
            for change in changes
            for step in (
                _anew(change, known[change.key])
                if change.key in pointed and change.key in known
                else [change]
            )
        ]

    def _holds(self, name: str, port: int) -> bool:
        return self._fetch(name).listen_port == port

    def _set(self, name: str, lines: Iterable[str], what: str) -> None:
        _exchange(name, itertools.chain(["set=1"], lines, [""]), what)


def format_peers(changes: Iterable[PeerChange]) -> Iterator[str]:
    """Yield the lines that carry out `changes`, in order."""
    for change in changes:
        yield f"public_key={change.key.raw.hex()}"
        if change.remove:
            yield "remove=true"
            continue
        if change.preshared_key is not None:
            yield f"preshared_key={change.preshared_key.raw.hex()}"
        if change.endpoint is not None:
            yield f"endpoint={change.endpoint}"
        if change.keepalive is not None:
            yield f"persistent_keepalive_interval={change.keepalive}"
        for prefix in change.add:
            yield f"allowed_ip={prefix}"
        for prefix in change.drop:
            yield f"allowed_ip=-{prefix}"


def _anew(change: PeerChange, peer: Peer) -> list[PeerChange]:
    """Return the steps that carry out a change of a peer with its first endpoint."""
    if peer.endpoint is not None:
        return [change]
    whole = PeerChange(
        change.key,
        add=peer.allowed_ips,
        endpoint=change.endpoint,
        keepalive=peer.keepalive if change.keepalive is None else change.keepalive,
        preshared_key=change.preshared_key or peer.preshared_key,
    )
    return [PeerChange(change.key, remove=True), whole, PeerChange(change.key, drop=change.drop)]


@dataclass(frozen=True, slots=True)
class Parsed:
    """One peer of an answer, and the text it was parsed from."""

    text: str = field(repr=False)
    key: PublicKey
    peer: Peer
    status: PeerStatus


def parse_device(text: str, known: dict[str, Parsed] | None = None) -> Device:
    """Parse the answer to `get=1`, without its errno; KernelRefused with EBADMSG if malformed.

    `known` are the peers of the last answer, and those of this one afterwards: what is said of a
    peer in the same words is not parsed again.
    """
    head, *parts = f"\n{text}".split("\npublic_key=")
    texts: dict[str, str] = {}
    for part in parts:
        key, _, rest = part.partition("\n")
        texts[key] = f"{texts[key]}\n{rest}" if key in texts else rest
    before = {} if known is None else known
    parsed: dict[str, Parsed] = {}
    try:
        for key, rest in texts.items():
            one = before.get(key)
            parsed[key] = one if one and one.text == rest else _parse_peer(key, rest)
        device = _device(_parse(head.removeprefix("\n")), parsed.values())
    except (ValueError, MeshnetError) as error:
        raise KernelRefused(f"malformed WireGuard device: {error}", errno.EBADMSG) from error
    if known is not None:
        known.clear()
        known.update(parsed)
    return device


@dataclass(slots=True)
class _Draft:
    values: dict[str, str] = field(default_factory=dict)
    allowed: list[str] = field(default_factory=list)


def _parse(text: str) -> _Draft:
    draft = _Draft()
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if not separator:
            raise ValueError("line without a value")
        if key == "allowed_ip":
            draft.allowed.append(value)
        else:
            draft.values[key] = value
    return draft


def _parse_peer(key: str, text: str) -> Parsed:
    draft = _parse(text)
    public = PublicKey(bytes.fromhex(key))
    return Parsed(text, public, _peer(draft), _status(draft.values))


def _device(draft: _Draft, parsed: Iterable[Parsed]) -> Device:
    if draft.allowed:
        raise ValueError("allowed IPs of no peer")
    own = draft.values
    key = bytes.fromhex(own.get("private_key", ""))
    return Device(
        private_key=PrivateKey(key) if any(key) else None,
        listen_port=int(own.get("listen_port", "0")),
        fwmark=int(own.get("fwmark", "0")),
        peers={one.key: one.peer for one in parsed},
        status={one.key: one.status for one in parsed},
    )


def _peer(draft: _Draft) -> Peer:
    values = draft.values
    preshared = bytes.fromhex(values.get("preshared_key", ""))
    return Peer(
        allowed_ips=_allowed_ips(tuple(draft.allowed)),
        endpoint=_endpoint(values["endpoint"]) if "endpoint" in values else None,
        keepalive=int(values.get("persistent_keepalive_interval", "0")),
        preshared_key=PresharedKey(preshared) if any(preshared) else None,
    )


def _status(values: dict[str, str]) -> PeerStatus:
    seconds = int(values.get("last_handshake_time_sec", "0"))
    nanoseconds = int(values.get("last_handshake_time_nsec", "0"))
    return PeerStatus(
        last_handshake=seconds + nanoseconds / 1e9,
        received=int(values.get("rx_bytes", "0")),
        sent=int(values.get("tx_bytes", "0")),
    )


@functools.lru_cache(maxsize=_CACHED)
def _allowed_ips(texts: tuple[str, ...]) -> frozenset[Prefix]:
    return frozenset(ip_network(text) for text in texts)


@functools.lru_cache(maxsize=_CACHED)
def _endpoint(text: str) -> Endpoint:
    return Endpoint.parse(text)


def _exchange(name: str, request: Iterable[str], what: str) -> str:
    """Send one operation; return the answer without its errno line, raise KernelRefused by it."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(_ANSWER_SECONDS)
            channel.connect(str(_socket_path(name)))
            _send(channel, request)
            answer = _receive(channel)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise refused(f"{what}: no wireguard-go answers", errno.ENODEV) from error
    except OSError as error:
        raise refused(what, error.errno or errno.EIO) from error
    body, _, verdict = answer.rstrip("\n").rpartition("errno=")
    if not verdict.lstrip("-").isdecimal():
        raise KernelRefused(f"{what}: wireguard-go broke off its answer", errno.EBADMSG)
    if int(verdict):
        raise refused(what, abs(int(verdict)))
    return body


def _send(channel: socket.socket, lines: Iterable[str]) -> None:
    """Send all, unless the daemon refuses a line early: then its verdict is there to be read."""
    with (
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
        channel.makefile("w", buffering=_SEND_BYTES) as stream,
    ):
        stream.writelines(f"{line}\n" for line in lines)


def _receive(channel: socket.socket) -> str:
    """Receive until the blank line that ends an answer."""
    parts = bytearray()
    while not parts.endswith(b"\n\n"):
        data = channel.recv(262_144)
        if not data:
            break
        parts += data
    return parts.decode(errors="replace")


def _socket_path(name: str) -> Path:
    return SOCKETS / f"{name}.sock"


def _find_binary() -> str:
    path = shutil.which(BINARY)
    if path is None:
        raise Unavailable(
            "the kernel has no WireGuard and wireguard-go is not installed",
            "apt install wireguard-go",
        )
    return path


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run wireguard-go in a session of its own and wait for its first process to end."""
    # With a log level set the daemon would keep our pipe open as its log for as long as it lives.
    env = {key: value for key, value in os.environ.items() if key != "LOG_LEVEL"}
    env.pop("WG_PROCESS_FOREGROUND", None)
    try:
        return subprocess.run(
            command,
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_START_SECONDS,
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(
            f"cannot start wireguard-go: {error}", "apt install --reinstall wireguard-go"
        ) from error
