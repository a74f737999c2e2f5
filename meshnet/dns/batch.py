"""Shell. Many datagrams by one system call: recvmmsg(2) and sendmmsg(2) by ctypes.

Every datagram has a slot: a piece of one shared buffer, and room for its sender's address. A known
packet is answered in its slot, over the query and behind the ID, so that nothing is copied but the
answer. The headers for receiving and for sending share slots and addresses.

`Single` does the same with one datagram at a time. It answers the first of them some microseconds
sooner and many of them at four fifths of the speed, and needs nothing special of the system.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import sys
from _socket import AF_INET, AF_INET6, MSG_DONTWAIT, SOCK_DGRAM, inet_ntop, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Literal

    Packets = Mapping[bytes, Iterator[bytes]]
    Sender = tuple[str, int] | tuple[str, int, int, int]
    Answer = Callable[[bytes, "Batch | Single", int], bytes | None]

SLOTS = 64
SLOT_SIZE = 2048

_SIZE_T: Literal["Q", "I"] = "Q" if ctypes.sizeof(ctypes.c_size_t) == 8 else "I"


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.c_void_p),
        ("vectors", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr: a header and the number of bytes moved."""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


class Single:
    """One datagram by each call."""

    def __init__(self) -> None:
        self._last: Sender = ("", 0)

    def serve(
        self, sock: socket, packets: Packets, odd: Answer, most: int = SLOTS
    ) -> tuple[int, int]:
        """Answer what waits on a socket, `most` of it. Return how many there were, and how many
        were known packets. The others go to `odd` with this object and a slot, by which to ask
        for the sender.
        """
        hits = 0
        for count in range(most):
            try:
                data, self._last = sock.recvfrom(SLOT_SIZE)
            except OSError:
                return count, hits
            known = packets.get(data[2:])
            hits += known is not None
            reply = odd(data, self, 0) if known is None else data[:2] + next(known)
            if reply is not None:
                _send(sock, reply, self._last)
        return most, hits

    def sender(self, slot: int) -> Sender:
        """Return who sent the datagram that is being answered."""
        del slot
        return self._last


def _send(sock: socket, reply: bytes, sender: Sender) -> None:
    try:
        sock.sendto(reply, sender)
    except OSError:
        # As with any datagram that is lost on its way: the client asks again.
        return


class Batch:
    """Slots for the sockets of one address family."""

    def __init__(self, family: int) -> None:
        # They never wait, so there is no need to let go of the interpreter meanwhile.
        library = ctypes.PyDLL(None, use_errno=True)
        self._receive, self._send = library.recvmmsg, library.sendmmsg
        for call, more in ((self._receive, (ctypes.c_void_p,)), (self._send, ())):
            call.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, *more)
        self._family = family
        self._buffer = mmap.mmap(-1, SLOTS * SLOT_SIZE)
        self._name_size = 16 if family == AF_INET else 28
        self._names = mmap.mmap(-1, SLOTS * self._name_size)
        self._slots = range(SLOTS)
        self._starts = [SLOT_SIZE * slot for slot in range(SLOTS)]
        received, arrived = self._headers()
        sent, vectors = self._headers()
        self._received, self._sent = ctypes.addressof(received), ctypes.addressof(sent)
        # The kernel is given their addresses, which hold nothing alive.
        self._alive = (received, arrived, sent, vectors)
        words = memoryview(received).cast("B").cast("I")
        stride = ctypes.sizeof(_Message) // 4
        self._lengths = words[_Message.length.offset // 4 :: stride]
        self._out = memoryview(vectors).cast("B").cast(_SIZE_T)[1::2]

    def _headers(self) -> tuple[ctypes.Array[_Message], ctypes.Array[_Vector]]:
        buffer = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        names = ctypes.addressof(ctypes.c_char.from_buffer(self._names))
        vectors = (_Vector * SLOTS)()
        messages = (_Message * SLOTS)()
        size = ctypes.sizeof(_Vector)
        for slot in range(SLOTS):
            vectors[slot].base = buffer + slot * SLOT_SIZE
            vectors[slot].length = SLOT_SIZE
            messages[slot].header.name = names + slot * self._name_size
            messages[slot].header.name_length = self._name_size
            messages[slot].header.vector = ctypes.addressof(vectors) + slot * size
            messages[slot].header.vectors = 1
        return messages, vectors

    def serve(self, sock: socket, packets: Packets, odd: Answer) -> tuple[int, int]:
        """As `Single.serve`."""
        descriptor = sock.fileno()
        count: int = self._receive(descriptor, self._received, SLOTS, MSG_DONTWAIT, None)
        if count <= 0:
            return 0, 0
        buffer, out = self._buffer, self._out
        first = others = 0
        lengths = self._lengths[:count].tolist()
        for slot, start, length in zip(self._slots, self._starts, lengths, strict=False):
            known = packets.get(buffer[start + 2 : start + length])
            if known is not None:
                reply = next(known)
                end = start + 2 + len(reply)
                buffer[start + 2 : end] = reply
                out[slot] = end - start
                continue
            others += 1
            other = odd(buffer[start : start + length], self, slot)
            if other is None:
                self._flush(descriptor, first, slot)
                first = slot + 1
            else:
                buffer[start : start + len(other)] = other
                out[slot] = len(other)
        self._flush(descriptor, first, count)
        return count, count - others

    def _flush(self, descriptor: int, first: int, end: int) -> None:
        """Send slots `first` to `end`; what cannot be sent is lost, as on any way."""
        size = ctypes.sizeof(_Message)
        while first < end:
            at = self._sent + first * size
            sent: int = self._send(descriptor, at, end - first, MSG_DONTWAIT)
            first += max(sent, 1)

    def sender(self, slot: int) -> Sender:
        """Return who sent the datagram in a slot."""
        raw = self._names[slot * self._name_size : (slot + 1) * self._name_size]
        port = int.from_bytes(raw[2:4], "big")
        if self._family == AF_INET:
            return inet_ntop(AF_INET, raw[4:8]), port
        scope = int.from_bytes(raw[24:28], sys.byteorder)
        return inet_ntop(AF_INET6, raw[8:24]), port, 0, scope


def batch_for(family: int) -> Batch | Single:
    """Return what this system can do: many by one call, or one."""
    try:
        batch = Batch(family)
    except (AttributeError, OSError):
        return Single()
    probe = socket(family, SOCK_DGRAM)
    ctypes.set_errno(0)
    batch.serve(probe, {}, _nothing)
    probe.close()
    return Single() if ctypes.get_errno() == errno.ENOSYS else batch


def _nothing(data: bytes, batch: Batch | Single, slot: int) -> bytes | None:
    del data, batch, slot
    return None
