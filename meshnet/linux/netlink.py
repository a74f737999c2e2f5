"""Driver. A small synchronous netlink socket: pack, send in batches, name the entry refused.

pyroute2 spends some 160 µs of Python on every message, which is forty times the kernel's own work
for a thousand entries; so what comes by the thousand (FDB, neighbours, routes, WireGuard peers)
is packed here by `struct`, and so is all that lies between an agent's start and its first packet.
Rare questions are left to pyroute2 (`ways`). The dialogue (RFC 3549):

    us → kernel   up to 128 messages in one send, each with its own sequence, the last one with
                  NLM_F_ACK
    kernel → us   an NLMSG_ERROR for every message refused: a negative errno, followed by the
                  kernel's own words (extended ACK); then one for the last, 0 where it was taken

    us → kernel   one message with NLM_F_DUMP
    kernel → us   parts with NLM_F_MULTI, closed by NLMSG_DONE; NLM_F_DUMP_INTR on any part says
                  that the table changed meanwhile, so the whole dump is asked for again

The kernel works through a batch in order and tells of each refusal unasked, so silence about a
message up to the last one's answer means that it was applied. A refused message does not keep the
ones behind it from being applied.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from meshnet.errors import KernelRefused

NETLINK_ROUTE = 0
NETLINK_GENERIC = 16

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 1, 2, 3, 4

NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x2, 0x4, 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
_NLM_F_ACK_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200

NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_NLMSGERR_ATTR_MSG = 1
_CLONE_NEWNET = 0x40000000

_BATCH_MESSAGES = 128
_BATCH_BYTES = 65_536
_RECEIVE_BYTES = 65_536
_DUMP_TRIES = 20
_LAST_SEQUENCE = 2**31
_TIMEOUT_SECONDS = 30.0

_HEADER = struct.Struct("=IHHII")
_HEADER_BYTES = 16
_FLAGS = struct.Struct("=H")
_FLAGS_SEQUENCE = struct.Struct("=HI")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")

Message = tuple[int, int, int, bytes]
"""Type, flags, sequence and body."""

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)
_place = threading.local()
"""In a thread that is visiting: a descriptor of the namespace it is in."""


def message(kind: int, flags: int, body: bytes) -> bytes:
    """Return one netlink message; `request` and `dump` fill in the sequence and their own flags."""
    size = len(body)
    return _HEADER.pack(_HEADER_BYTES + size, kind, flags, 0, 0) + body + bytes(-size & 3)


def attribute(kind: int, data: bytes) -> bytes:
    """Return one attribute, padded to four bytes; its data must be shorter than 64 KiB."""
    size = 4 + len(data)
    return _ATTRIBUTE.pack(size, kind) + data + bytes(-size & 3)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def iterate_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type without its flag bits, data) in order; raise KernelRefused when cut short."""
    offset, end = 0, len(data)
    while end - offset >= 4:
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4 or offset + size > end:
            raise _malformed(f"attribute of {size} bytes where {end - offset} are left")
        yield kind & _NLA_TYPE_MASK, data[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """Return attributes by type; the last of a type wins, as in the kernel's own parser."""
    return dict(iterate_attributes(data))


def split_messages(data: bytes) -> list[Message]:
    """Return (type, flags, sequence, body) of each message; raise KernelRefused when cut short."""
    found: list[Message] = []
    offset, end = 0, len(data)
    while end - offset >= _HEADER_BYTES:
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if size < _HEADER_BYTES or offset + size > end:
            raise _malformed(f"message of {size} bytes where {end - offset} are left")
        found.append((kind, flags, sequence, data[offset + _HEADER_BYTES : offset + size]))
        offset += (size + 3) & ~3
    return found


def in_namespace(netns: str | int, act: Callable[[], T]) -> T:
    """Run `act` inside a network namespace (path or open descriptor) and return its result.

    A thread may change its namespace while the process keeps its own: the calling one goes there
    and comes back, but the main thread is the process to everybody else and sends a short-lived
    one. A socket opened there stays there. OSError passes through.
    """
    if threading.current_thread() is not threading.main_thread():
        return _visit(netns, act)
    outcome: list[T] = []
    failure: list[BaseException] = []

    def enter_and_act() -> None:
        try:
            outcome.append(_visit(netns, act))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=enter_and_act, name="in-namespace")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _visit(netns: str | int, act: Callable[[], T]) -> T:
    """Enter a namespace in this thread, act, and go back to where it was before."""
    if not hasattr(_place, "descriptor"):
        return _set_out(netns, act)
    before = _place.descriptor
    descriptor = _open(netns) if isinstance(netns, str) else netns
    try:
        _enter(descriptor)
        _place.descriptor = descriptor
        return act()
    finally:
        _enter(before)
        _place.descriptor = before
        if isinstance(netns, str):
            os.close(descriptor)


def _set_out(netns: str | int, act: Callable[[], T]) -> T:
    """Visit a namespace from the one this thread is at home in."""
    _place.descriptor = home = _open("/proc/thread-self/ns/net")
    try:
        return _visit(netns, act)
    finally:
        del _place.descriptor
        os.close(home)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def open_socket(protocol: int, netns: str | int | None = None) -> socket.socket:
    """Return a netlink socket of the current network namespace or of `netns`."""

    def make() -> socket.socket:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)

    return make() if netns is None else in_namespace(netns, make)


class Netlink:
    """A socket for requests and dumps, to be used by one thread at a time."""

    def __init__(self, protocol: int = NETLINK_ROUTE, netns: str | int | None = None) -> None:
        """Open in the current network namespace, or in `netns` (a path or an open descriptor)."""
        try:
            self._socket = open_socket(protocol, netns)
        except OSError as error:
            where = "" if netns is None else f" in {netns}"
            raise _refused(f"open netlink socket{where}", error.errno or errno.EIO) from error
        try:
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            self._socket.settimeout(_TIMEOUT_SECONDS)
            self._socket.bind((0, 0))
        except OSError as error:
            self._socket.close()
            raise _refused("set up netlink socket", error.errno or errno.EIO) from error
        self._sequence = 0
        self._buffer = bytearray(_RECEIVE_BYTES)

    def request(
        self,
        messages: Sequence[bytes],
        describe: Sequence[str] | Callable[[int], str],
        ignore: Collection[int] = (),
    ) -> None:
        """Send all messages; afterwards raise KernelRefused for the first one refused.

        `describe` names message i, as a list of names or a function. `ignore` holds errno values
        that mean the wished state is there already, such as ENOENT when removing.
        """
        refusals: list[tuple[int, int, str]] = []
        for first, batch in _batches(messages):
            for index, code, words in self._send(batch):
                if code not in ignore:
                    refusals.append((first + index, code, words))
        if refusals:
            index, code, words = refusals[0]
            name = describe(index) if callable(describe) else describe[index]
            more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
            raise _refused(name + more, code, words)

    def ask(self, query: bytes, what: str) -> list[bytes]:
        """Send one message that is answered by messages; return their bodies."""
        sequence = self._transmit([query], NLM_F_REQUEST | NLM_F_ACK)
        bodies: list[bytes] = []
        for kind, flags, number, body in self._receive(what):
            if number != sequence:
                continue
            if kind == NLMSG_ERROR:
                code, words = _verdict(kind, flags, body)
                if code:
                    raise _refused(what, code, words)
                return bodies
            bodies.append(body)
        raise _malformed("no end of answer")

    def transact(self, batch: Sequence[bytes], what: str) -> None:
        """Send messages that hold together or not at all; the last but one asks for the answer."""
        last = self._transmit(batch, NLM_F_REQUEST)
        first = last - len(batch) + 1
        for kind, flags, number, body in self._receive(what):
            if kind != NLMSG_ERROR or not first <= number <= last:
                continue
            code, words = _verdict(kind, flags, body)
            if code:
                raise _refused(what, code, words)
            if number == last - 1:
                return

    def dump(self, query: bytes, what: str) -> list[bytes]:
        """Return the bodies of a whole, consistent dump; `what` names it in an error."""
        for _ in range(_DUMP_TRIES):
            bodies = self._dump_once(query, what)
            if bodies is not None:
                return bodies
        raise _refused(f"{what}: the table keeps changing while it is read", errno.EINTR)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, batch: Sequence[bytes]) -> Iterator[tuple[int, int, str]]:
        """Send a batch, wait for its last answer, yield (index, errno, words) of those refused."""
        last = self._transmit(batch, NLM_F_REQUEST, NLM_F_ACK)
        first = last - len(batch) + 1
        for kind, flags, number, body in self._receive("acknowledgement"):
            if kind != NLMSG_ERROR or not first <= number <= last:
                continue
            code, words = _verdict(kind, flags, body)
            if code:
                yield number - first, code, words
            if number == last:
                return

    def _dump_once(self, query: bytes, what: str) -> list[bytes] | None:
        """Return the bodies of one dump, or None when the table changed while it was read."""
        sequence = self._transmit([query], NLM_F_REQUEST | NLM_F_DUMP)
        bodies: list[bytes] = []
        interrupted = False
        for kind, flags, number, body in self._receive(what):
            if number != sequence:
                continue
            interrupted |= bool(flags & NLM_F_DUMP_INTR)
            if kind in (NLMSG_ERROR, NLMSG_DONE):
                code, words = _verdict(kind, flags, body)
                if code == errno.EINTR:
                    return None
                if code:
                    raise _refused(what, code, words)
                return None if interrupted else bodies
            bodies.append(body)
        raise _malformed("no end of dump")

    def _transmit(self, batch: Sequence[bytes], flags: int, last: int = 0) -> int:
        """Send messages with rising sequence numbers; return the last one's, which gets `last`."""
        data = bytearray(b"".join(batch))
        sequence = self._sequence if self._sequence < _LAST_SEQUENCE else 0
        offset = own = 0
        for one in batch:
            sequence += 1
            (own,) = _FLAGS.unpack_from(one, 6)
            _FLAGS_SEQUENCE.pack_into(data, offset + 6, own | flags, sequence)
            offset += len(one)
        _FLAGS.pack_into(data, offset - len(batch[-1]) + 6, own | flags | last)
        self._sequence = sequence
        try:
            self._socket.send(data)
        except OSError as error:
            raise _refused("send netlink messages", error.errno or errno.EIO) from error
        return sequence

    def _receive(self, what: str) -> Iterator[Message]:
        while True:
            try:
                size, _, flags, _ = self._socket.recvmsg_into([self._buffer])
            except TimeoutError as error:
                raise _refused(f"{what}: no answer from the kernel", errno.ETIMEDOUT) from error
            except OSError as error:
                raise _refused(what, error.errno or errno.EIO) from error
            if flags & socket.MSG_TRUNC:
                raise _malformed(f"datagram over {_RECEIVE_BYTES} bytes")
            yield from split_messages(bytes(memoryview(self._buffer)[:size]))


def _batches(messages: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Cut into (index of the first, messages), limited in number and bytes."""
    first, size = 0, 0
    for index, one in enumerate(messages):
        if index > first and (index - first >= _BATCH_MESSAGES or size + len(one) > _BATCH_BYTES):
            yield first, messages[first:index]
            first, size = index, 0
        size += len(one)
    if messages:
        yield first, messages[first:]


def _verdict(kind: int, flags: int, body: bytes) -> tuple[int, str]:
    """Return (errno, the kernel's words) of an NLMSG_ERROR or NLMSG_DONE body."""
    if len(body) < 4:
        raise _malformed("verdict without an error number")
    code = -int(_ERROR.unpack_from(body)[0])
    if not code or not flags & _NLM_F_ACK_TLVS:
        return code, ""
    offset = 4
    if kind == NLMSG_ERROR:  # the refused message comes back, its header only when capped
        capped = flags & _NLM_F_ACK_CAPPED
        offset += _HEADER.size if capped else _padded_size(body[4:])
    words = attributes(body[offset:]).get(_NLMSGERR_ATTR_MSG, b"")
    return code, words.rstrip(b"\0").decode(errors="replace")


def _padded_size(header: bytes) -> int:
    if len(header) < _HEADER.size:
        raise _malformed("verdict without the message it is about")
    size: int = _HEADER.unpack_from(header)[0]
    return (size + 3) & ~3


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"enter network namespace: {os.strerror(code)}")


def _refused(what: str, code: int, words: str = "") -> KernelRefused:
    reason = f"{os.strerror(code)} ({errno.errorcode.get(code, code)})"
    return KernelRefused(f"{what}: {reason}{': ' + words if words else ''}", code, hint_for(code))


def hint_for(code: int) -> str:
    """Return what to do about an errno that says more of the machine than of the request."""
    return _HINTS.get(code, "")


_LACKING = (
    "This kernel lacks it: load the module (wireguard, vxlan, bridge, veth, nf_tables), or boot a"
    " kernel that has it."
)
_HINTS = {
    errno.EPERM: "Run as root.",
    errno.EACCES: "Run as root.",
    errno.EMFILE: "Raise the limit of open files (LimitNOFILE= in the unit, ulimit -n in a shell).",
    errno.ENFILE: "Raise the machine's limit of open files (sysctl fs.file-max).",
    errno.ENOBUFS: "Raise the kernel's socket buffers: sysctl net.core.rmem_default, rmem_max.",
    errno.EOPNOTSUPP: _LACKING,
    errno.EPROTONOSUPPORT: _LACKING,
    errno.EAFNOSUPPORT: _LACKING,
}


def _malformed(what: str) -> KernelRefused:
    return KernelRefused(f"malformed netlink data: {what}", errno.EBADMSG)
