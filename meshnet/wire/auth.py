"""Pure. How a node proves who it is: signed requests, and proofs of possession when it joins.

A signed request carries one header,

    Authorization: Meshnet1 IDENTITY.TIME.NONCE.SIGNATURE

where SIGNATURE is Ed25519 over the words "meshnet request 1", method, path with query, SHA-256 of
the body, TIME (seconds), NONCE (16 bytes) and the pin of the coordinator it is meant for. So a
request cannot be altered, sent to another coordinator or, within the window that the server
remembers nonces for, sent twice. A server whose clock differs answers with its own time; the node
signs again by that.

A WireGuard key cannot sign, so its proof is a MAC: HMAC-SHA256 keyed by the X25519 shared secret of
that key and a key the coordinator made for one challenge. Only who holds the private half of either
can compute it. The transcripts bind challenge, pin and everything asked for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

from meshnet.errors import BadInput, NotAuthentic
from meshnet.model.keys import IdentityKey, PrivateKey, PublicKey, SigningKey

SCHEME = "Meshnet1"
WINDOW_SECONDS = 60
NONCE_BYTES = 16
HEADER_LIMIT = 512
_REQUEST = b"meshnet request 1\0"
_JOIN = b"meshnet join 1\0"
_KEY = b"meshnet key proof 1\0"


@dataclass(frozen=True, slots=True)
class RequestLine:
    """The part of a request that a signature covers, save who, when and the nonce."""

    method: str
    path: str
    body: bytes
    pin: str

    def transcript(self, time: int, nonce: bytes) -> bytes:
        digest = hashlib.sha256(self.body).digest()
        return _pack(
            _REQUEST,
            self.method.encode(),
            self.path.encode(),
            digest,
            b"%d" % time,
            nonce,
            self.pin.encode(),
        )


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the header says: not yet verified."""

    identity: IdentityKey
    time: int
    nonce: bytes
    signature: bytes

    def verify(self, line: RequestLine) -> None:
        """Return when the signature holds for this request, else raise NotAuthentic."""
        self.identity.verify(line.transcript(self.time, self.nonce), self.signature)


def sign_request(key: SigningKey, line: RequestLine, time: int, nonce: bytes) -> str:
    """Return the Authorization header of a request; `nonce` is 16 fresh random bytes."""
    signature = key.sign(line.transcript(time, nonce))
    return f"{SCHEME} {key.public}.{time}.{_text(nonce)}.{_text(signature)}"


def read_credentials(header: str) -> Credentials:
    """Parse the header; raise NotAuthentic for anything that is not one."""
    scheme, _, rest = header[:HEADER_LIMIT].partition(" ")
    parts = rest.split(".")
    if scheme != SCHEME or len(parts) != 4:
        raise NotAuthentic("the request is not signed", "Sign it with the node's identity key.")
    identity, time, nonce, signature = parts
    try:
        if not (time.isascii() and time.isdigit() and len(time) < 16):
            raise BadInput("time is not a number")
        credentials = Credentials(
            IdentityKey.parse(identity), int(time), _raw(nonce), _raw(signature)
        )
        if len(credentials.nonce) != NONCE_BYTES:
            raise BadInput("nonce has the wrong length")
    except BadInput as error:
        raise NotAuthentic(f"the request's signature cannot be read: {error.message}") from error
    return credentials


@dataclass(frozen=True, slots=True)
class JoinClaim:
    """What a joiner asks for, as both proofs cover it."""

    name: str
    identity: IdentityKey
    wireguard: PublicKey
    secret: bytes
    challenge: bytes
    pin: str

    def __repr__(self) -> str:
        return f"JoinClaim({self.name!r}, {self.identity}, secret=hidden)"

    def transcript(self) -> bytes:
        return _pack(
            _JOIN,
            self.challenge,
            self.pin.encode(),
            self.name.encode(),
            self.identity.raw,
            self.wireguard.raw,
            hashlib.sha256(self.secret).digest(),
        )


def key_transcript(challenge: bytes, pin: str, identity: IdentityKey, key: PublicKey) -> bytes:
    """Return what a member's proof of a WireGuard key covers."""
    return _pack(_KEY, challenge, pin.encode(), identity.raw, key.raw)


def prove(private: PrivateKey, other: PublicKey, transcript: bytes) -> bytes:
    """Return the MAC that proves possession of `private` (or of the private half of `other`)."""
    return hmac.digest(private.shared_secret(other), transcript, "sha256")


def check_proof(private: PrivateKey, other: PublicKey, transcript: bytes, mac: bytes) -> None:
    """Return when `mac` was made by the holder of `other`, else raise NotAuthentic."""
    if not hmac.compare_digest(prove(private, other, transcript), mac):
        raise NotAuthentic(f"the proof of WireGuard key {other} does not hold")


def _pack(*parts: bytes) -> bytes:
    """Join with lengths, so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _raw(text: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise BadInput("not base64url") from error
    if _text(raw) != text:
        raise BadInput("not canonical base64url")
    return raw
