"""Pure. The dialogue between the agent and its DNS process, over a SOCK_SEQPACKET socket.

    agent                                process
    HELLO version          ───────────▶
                           ◀───────────  = version pid, then each listener it has
    BEGIN full             ───────────▶  a new generation, beside the one that answers
    CONTEXT name layers origins ──────▶
    PUT layer owner records …  ───────▶
    APPEND layer owner records ───────▶  the rest of records too long for one message
    COMMIT serial          ───────────▶  from here on it answers; before, nothing changes
    LISTEN context udp|tcp address port netns + one descriptor ───▶
    UPSTREAMS address port …   ───────▶
    STATS                  ───────────▶
                           ◀───────────  = lines of name{labels} value
    TAKE                   ───────────▶  hand your listeners to another process
                           ◀───────────  = listeners + their descriptors
    STOP                   ───────────▶

Every message is answered by one: `=` and fields, or `!` and a reason. BEGIN part instead of full
changes the generation that answers: PUT and DROP owners, CONTEXT and FORGET contexts. Nothing of it
shows before COMMIT, and a connection that ends before takes its generation with it.

A message is an operation and its fields, each with its length; numbers are decimal text.
"""

from __future__ import annotations

import struct

from meshnet.errors import BadInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

HELLO, BEGIN, CONTEXT, FORGET, COMMIT = b"h", b"b", b"c", b"f", b"k"
PUT, APPEND, DROP = b"p", b"a", b"d"
LISTEN, UNLISTEN, UPSTREAMS, STATS, TAKE, STOP = b"l", b"u", b"s", b"m", b"t", b"q"
DONE, FAILED = b"=", b"!"

MESSAGE_MAX = 65536
"""Longest message sent. It has to fit into a socket's send buffer."""

_LENGTH = struct.Struct("<I")
_ROOM = MESSAGE_MAX - 1024


def pack(operation: bytes, *fields: bytes | str | int) -> bytes:
    """Return a message."""
    parts = [operation]
    for field in fields:
        raw = field if isinstance(field, bytes) else str(field).encode()
        parts += (_LENGTH.pack(len(raw)), raw)
    return b"".join(parts)


def unpack(message: bytes) -> tuple[bytes, list[bytes]]:
    """Return a message's operation and fields; raise BadInput when it is cut."""
    fields, at = [], 1
    while at < len(message):
        start = at + _LENGTH.size
        if start > len(message):
            raise BadInput("a control message is cut")
        end = start + int(_LENGTH.unpack_from(message, at)[0])
        if end > len(message):
            raise BadInput("a control message is cut")
        fields.append(message[start:end])
        at = end
    return message[:1], fields


def put_messages(layer: str, names: Mapping[bytes, bytes | None]) -> Iterator[bytes]:
    """Yield the messages that set these names of a layer; None takes a name away.

    They are ordered by what the names have, so that the other side can keep equal records once.
    """
    batch: list[bytes] = []
    room = _ROOM
    for records, owner in sorted(
        (records, owner) for owner, records in names.items() if records is not None
    ):
        first, *more = _pieces(records)
        cost = len(owner) + len(first) + 2 * _LENGTH.size
        if cost > room:
            yield pack(PUT, layer, *batch)
            batch, room = [], _ROOM
        batch += (owner, first)
        room -= cost
        if more:
            yield pack(PUT, layer, *batch)
            batch, room = [], _ROOM
            yield from (pack(APPEND, layer, owner, piece) for piece in more)
    if batch:
        yield pack(PUT, layer, *batch)
    yield from _drop_messages(layer, [owner for owner in sorted(names) if names[owner] is None])


def _pieces(records: bytes) -> list[bytes]:
    step = _ROOM // 2
    return [records[at : at + step] for at in range(0, max(len(records), 1), step)]


def _drop_messages(layer: str, owners: list[bytes]) -> Iterator[bytes]:
    for at in range(0, len(owners), 200):
        yield pack(DROP, layer, *owners[at : at + 200])


def pairs(fields: list[bytes]) -> Iterable[tuple[bytes, bytes]]:
    """Return fields two by two."""
    return zip(fields[::2], fields[1::2], strict=True)
