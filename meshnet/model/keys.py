"""Pure. Keys: Ed25519 for identity and signatures, X25519 for WireGuard.

A key is 32 bytes by construction; nobody checks again. Secret keys never show themselves: their
repr names the public half only, and they have no JSON form.

Text forms follow each field's custom: WireGuard keys are standard base64 with padding, as `wg`
prints them; identity keys are base64url without padding, so they can stand in a URL.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from functools import lru_cache, total_ordering

from nacl.bindings import (
    crypto_scalarmult,
    crypto_scalarmult_base,
    crypto_sign,
    crypto_sign_BYTES,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import CryptoError

from meshnet.errors import BadInput, NotAuthentic

KEY_BYTES = 32
NODE_ID_BYTES = 10

KEPT = 1 << 13
"""Identity keys that are remembered by their text: each comes with every fact of its writer, and
with every vector."""


@total_ordering
class Key:
    """32 public bytes. A plain class, so that the codec asks for its text and not its fields."""

    __slots__ = ("raw",)
    raw: bytes

    def __init__(self, raw: bytes) -> None:
        _check_length(raw, type(self).__name__)
        object.__setattr__(self, "raw", raw)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.raw == other.raw

    def __lt__(self, other: Key) -> bool:
        return self.raw < other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __reduce__(self) -> tuple[type[Key], tuple[bytes]]:
        return type(self), (self.raw,)


class PublicKey(Key):
    """A WireGuard public key: 32 bytes of X25519 (RFC 7748)."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read the base64 form that `wg` prints; raise BadInput for anything else."""
        return cls(_decode(text, base64.b64decode, text, "WireGuard public key"))

    def __str__(self) -> str:
        return base64.b64encode(self.raw).decode()


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A WireGuard private key. Never printed; `raw` is for the driver and the key file only."""

    raw: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_length(self.raw, "WireGuard private key")

    @classmethod
    def from_random(cls, random: bytes) -> PrivateKey:
        """Clamp 32 random bytes to an X25519 scalar (RFC 7748, section 5)."""
        _check_length(random, "random seed")
        first, last = random[0] & 248, (random[31] & 127) | 64
        return cls(bytes([first]) + random[1:31] + bytes([last]))

    @property
    def public(self) -> PublicKey:
        return PublicKey(crypto_scalarmult_base(self.raw))

    def shared_secret(self, other: PublicKey) -> bytes:
        """Return the 32-byte X25519 shared secret; raise NotAuthentic for a weak `other`."""
        try:
            return bytes(crypto_scalarmult(self.raw, other.raw))
        except (CryptoError, RuntimeError) as error:
            raise NotAuthentic(f"WireGuard key {other} is a weak point") from error

    def __repr__(self) -> str:
        return f"PrivateKey(of {self.public})"


@dataclass(frozen=True, slots=True)
class PresharedKey:
    """A WireGuard preshared key. Never printed."""

    raw: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_length(self.raw, "preshared key")

    def __repr__(self) -> str:
        return "PresharedKey(hidden)"


class IdentityKey(Key):
    """The public half of a signing key: 32 bytes of Ed25519 (RFC 8032)."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> IdentityKey:
        """Read base64url without padding; raise BadInput for anything else."""
        return _identity(text)

    @property
    def node_id(self) -> str:
        """The node's id: 16 characters of base32, the hash of its identity key."""
        digest = hashlib.sha256(b"meshnet node id\0" + self.raw).digest()[:NODE_ID_BYTES]
        return base64.b32encode(digest).decode().lower()

    def verify(self, message: bytes, signature: bytes) -> None:
        """Return when `signature` (64 bytes) is this key's over `message`, else NotAuthentic."""
        try:
            if len(signature) != crypto_sign_BYTES:
                raise ValueError("wrong length")
            crypto_sign_open(signature + message, self.raw)
        except (CryptoError, ValueError) as error:
            raise NotAuthentic(f"signature by {self} does not hold") from error

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(self.raw).decode().rstrip("=")


@lru_cache(maxsize=KEPT)
def _identity(text: str) -> IdentityKey:
    return IdentityKey(_decode(text + "=", base64.urlsafe_b64decode, text + "=", "identity key"))


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The secret half of an Ed25519 key, as its 32-byte seed. Never printed."""

    seed: bytes = field(repr=False)
    public: IdentityKey = field(init=False)
    _secret: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_length(self.seed, "signing key seed")
        public, secret = crypto_sign_seed_keypair(self.seed)
        object.__setattr__(self, "public", IdentityKey(public))
        object.__setattr__(self, "_secret", secret)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over `message`."""
        return crypto_sign(message, self._secret)[:crypto_sign_BYTES]

    def __repr__(self) -> str:
        return f"SigningKey(of {self.public})"


def _check_length(raw: bytes, what: str) -> None:
    if len(raw) != KEY_BYTES:
        raise BadInput(f"{what} has {len(raw)} bytes, not {KEY_BYTES}")


def _decode(text: str, decode: object, canonical: str, what: str) -> bytes:
    """Decode strictly: only the one spelling that encodes back to itself is a key."""
    assert callable(decode)
    try:
        raw = bytes(decode(text.encode("ascii")))
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"{what} is not base64: {text[:50]!r}") from error
    encode = base64.b64encode if decode is base64.b64decode else base64.urlsafe_b64encode
    if len(raw) != KEY_BYTES or encode(raw).decode() != canonical:
        raise BadInput(f"{what} is not 32 bytes of base64: {text[:50]!r}")
    return raw
