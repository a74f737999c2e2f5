"""Pure. The wire form of a fact, and the one place where signatures are made and checked.

A fact travels as {"payload": TEXT, "signature": BASE64URL}. The payload is itself canonical JSON,

    {"body": {…} | null, "key": "…", "kind": "…", "sequence": N, "version": 1, "writer": "…"}

and the signature is Ed25519 over the ASCII words "meshnet fact 1", a zero byte and the payload's
bytes. The payload is carried as text and never re-encoded, so fields and kinds that a reader does
not know survive on their way through it. One content has one encoding: a payload that is not
canonical is refused, and so is a body that does not belong to its key.
"""

from __future__ import annotations

import base64
import binascii
import sys
from typing import Any

import msgspec

from meshnet.errors import BadInput, NotAuthentic
from meshnet.model.facts import RECORDS, STATEMENTS, Fact, Slot
from meshnet.model.keys import IdentityKey, SigningKey
from meshnet.model.records import Record
from meshnet.model.statements import Statement
from meshnet.wire import codec

CONTEXT = b"meshnet fact 1\0"
VERSION = 1
PAYLOAD_LIMIT = 16 * 1024
SEQUENCE_LIMIT = 1 << 62
BODIES: dict[str, type[Statement] | type[Record]] = {**STATEMENTS, **RECORDS}


class SignedFact(msgspec.Struct, frozen=True):
    """A fact in transit: not verified, not parsed."""

    payload: str
    signature: str


class _Payload(msgspec.Struct):
    version: int
    writer: IdentityKey
    kind: str
    key: str
    sequence: int
    body: dict[str, Any] | None


def sign(key: SigningKey, body: Statement | Record, sequence: int) -> Fact:
    """Make a fact that states `body`."""
    return _make(key, body.KIND, body.slot, sequence, body)


def sign_deletion(key: SigningKey, kind: str, slot_key: str, sequence: int) -> Fact:
    """Make a fact that takes back whatever `kind` and `slot_key` said."""
    return _make(key, kind, slot_key, sequence, None)


def _make(
    key: SigningKey, kind: str, slot_key: str, sequence: int, body: Statement | Record | None
) -> Fact:
    payload = codec.encode(
        {
            "version": VERSION,
            "writer": key.public,
            "kind": kind,
            "key": slot_key,
            "sequence": sequence,
            "body": None if body is None else msgspec.json.decode(codec.encode(body)),
        }
    )
    if len(payload) > PAYLOAD_LIMIT:
        raise BadInput(f"{kind} {slot_key!r} is larger than {PAYLOAD_LIMIT} bytes")
    slot = Slot(key.public, kind, slot_key)
    return Fact(slot, sequence, body, body is None, payload, key.sign(CONTEXT + payload))


def seal(fact: Fact) -> SignedFact:
    """Return the form of a fact that travels."""
    signature = base64.urlsafe_b64encode(fact.signature).decode()
    return SignedFact(fact.payload.decode(), signature)


def open_fact(signed: SignedFact) -> Fact:
    """Verify and parse; raise BadInput for what is no fact, NotAuthentic for a wrong signature."""
    payload = signed.payload.encode()
    if len(payload) > PAYLOAD_LIMIT:
        raise BadInput(f"fact is larger than {PAYLOAD_LIMIT} bytes")
    head = codec.decode(payload, _Payload, "fact")
    if head.version != VERSION:
        raise BadInput(f"fact has version {head.version}, this meshnet reads {VERSION}")
    if not 0 <= head.sequence < SEQUENCE_LIMIT:
        raise BadInput(f"fact has sequence {head.sequence}")
    signature = _signature(signed.signature)
    head.writer.verify(CONTEXT + payload, signature)
    if codec.canonical(payload) != payload:
        raise BadInput(f"{head.kind} {head.key!r} is not in canonical form")
    body = _body(head)
    slot = Slot(head.writer, sys.intern(head.kind), head.key)
    return Fact(slot, head.sequence, body, head.body is None, payload, signature)


def _body(head: _Payload) -> Statement | Record | None:
    kind = BODIES.get(head.kind)
    if kind is None or head.body is None:
        return None
    body = codec.convert(head.body, kind, f"{head.kind} {head.key!r}")
    if body.slot != head.key:
        raise BadInput(f"{head.kind} {head.key!r} speaks of {body.slot!r}")
    return body


def _signature(text: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(text.encode("ascii"))
    except (binascii.Error, ValueError) as error:
        raise NotAuthentic("signature is not base64url") from error
    if base64.urlsafe_b64encode(raw).decode() != text:
        raise NotAuthentic("signature is not in canonical base64url")
    return raw
