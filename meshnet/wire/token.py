"""Pure. Join tokens: all that a machine needs to find the mesh and to know it when it sees it.

    mnt1. BASE64URL( length 2 | check of length 4 |
                     root key 32 | secret 16 | n 1 | n pins of 32 | m 1 | m × (size 1 | URL) |
                     checksum 6 )

The length and its own check come first, so a token cut off by a terminal or a chat is told from
one whose characters were altered. Both checks are against accidents only: what a forger could put
here, the pin and the signatures find out. The secret is 128 random bits; whoever holds it may join.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from meshnet.errors import BadInput, TokenDamaged, TokenTruncated
from meshnet.model.keys import KEY_BYTES, IdentityKey
from meshnet.wire.pin import PIN_BYTES, check_pin

PREFIX = "mnt1."
SECRET_BYTES = 16
TEXT_LIMIT = 8192
_HEAD = 6
_TAIL = 6
_HEAD_TEXT = 8
_ALPHABET = re.compile(r"[A-Za-z0-9_-]*")
_AGAIN = "Copy the token again, whole, or have a new one made by `meshnet token create`."


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says. `pins` are SHA-256 of the coordinators' TLS keys, in hex."""

    urls: tuple[str, ...]
    pins: tuple[str, ...]
    root: IdentityKey
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not self.urls or not self.pins or len(self.urls) > 16 or len(self.pins) > 16:
            raise BadInput("a token needs 1 to 16 coordinator URLs and pins")
        if len(self.secret) != SECRET_BYTES:
            raise BadInput(f"a token's secret has {SECRET_BYTES} bytes")
        for url in self.urls:
            check_url(url)
        for pin in self.pins:
            check_pin(pin)


def check_url(url: str) -> str:
    """Return a coordinator's URL, `https://HOST[:PORT]` and no more, else raise BadInput."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadInput(f"{url[:200]!r} is not a URL") from error
    plain = f"https://{parts.netloc}"
    fits = len(url) < 256 and url.isascii() and url.isprintable() and " " not in url
    if not parts.hostname or "@" in url or port == 0 or url != plain or not fits:
        raise BadInput(
            f"{url[:200]!r} is not https://HOST[:PORT]", "Give for example https://HOST:7443."
        )
    return url


def write_token(token: Token) -> str:
    """Return the text of a token."""
    body = b"".join(
        (
            token.root.raw,
            token.secret,
            bytes([len(token.pins)]),
            *(bytes.fromhex(pin) for pin in token.pins),
            bytes([len(token.urls)]),
            *(bytes([len(url)]) + url.encode("ascii") for url in token.urls),
        )
    )
    length = (len(body) + _TAIL).to_bytes(2, "big")
    whole = length + _length_check(length) + body
    return PREFIX + base64.urlsafe_b64encode(whole + _checksum(whole)).decode().rstrip("=")


def read_token(text: str) -> Token:
    """Read a token; raise TokenTruncated when it is cut short, TokenDamaged for any other fault."""
    text = text.strip()
    if PREFIX.startswith(text):
        raise TokenTruncated("the token ends after its first characters", _AGAIN)
    if not text.startswith(PREFIX):
        raise TokenDamaged(f"a token begins with {PREFIX}", _AGAIN)
    coded = text.removeprefix(PREFIX)
    if len(text) > TEXT_LIMIT or not _ALPHABET.fullmatch(coded):
        raise TokenDamaged("the token holds characters that no token has", _AGAIN)
    if len(coded) < _HEAD_TEXT:
        raise TokenTruncated("the token ends after its first characters", _AGAIN)
    return _parse(_whole(coded))


def _whole(coded: str) -> bytes:
    head = _decode(coded[:_HEAD_TEXT])
    if head[2:] != _length_check(head[:2]):
        raise TokenDamaged("the token was altered: its length does not hold", _AGAIN)
    bits = 8 * (_HEAD + int.from_bytes(head[:2], "big"))
    expected = (bits + 5) // 6
    if len(coded) < expected:
        raise TokenTruncated(
            f"the token is cut short: {len(coded)} of {expected} characters", _AGAIN
        )
    whole = _decode(coded)
    if len(coded) > expected or whole[-_TAIL:] != _checksum(whole[:-_TAIL]):
        raise TokenDamaged("the token was altered: its checksum does not hold", _AGAIN)
    return whole[_HEAD:-_TAIL]


def _parse(body: bytes) -> Token:
    reader = _Reader(body)
    try:
        root, secret = IdentityKey(reader.take(KEY_BYTES)), reader.take(SECRET_BYTES)
        pins = tuple(reader.take(PIN_BYTES).hex() for _ in range(reader.byte()))
        urls = tuple(reader.take(reader.byte()).decode("ascii") for _ in range(reader.byte()))
        reader.finish()
        return Token(urls, pins, root, secret)
    except (BadInput, UnicodeDecodeError) as error:
        raise TokenDamaged("the token does not hold what a token holds", _AGAIN) from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._rest = data

    def take(self, count: int) -> bytes:
        if len(self._rest) < count:
            raise BadInput("ends too early")
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def finish(self) -> None:
        if self._rest:
            raise BadInput("goes on after its end")


def _decode(coded: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
    except (binascii.Error, ValueError) as error:
        raise TokenDamaged("the token is not base64url", _AGAIN) from error
    if base64.urlsafe_b64encode(raw).decode().rstrip("=") != coded:
        raise TokenDamaged("the token was altered in its last character", _AGAIN)
    return raw


def _length_check(length: bytes) -> bytes:
    return hashlib.sha256(b"meshnet token length\0" + length).digest()[:4]


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(b"meshnet token\0" + data).digest()[:_TAIL]
