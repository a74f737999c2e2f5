"""Pure. The pin of a TLS key: SHA-256 of a certificate's SubjectPublicKeyInfo, in hex.

The pin names the key and not the certificate, so a certificate may be made anew with the same key
(RFC 7469, section 2.4). A reader of this little DER (X.690) is here so that a node needs no X.509
library; it looks at structure only, since the pin says everything there is to trust.

    Certificate ::= SEQUENCE { tbs SEQUENCE { [0] version?, serial, algorithm, issuer, validity,
                                              subject, subjectPublicKeyInfo, … }, … }
"""

from __future__ import annotations

import hashlib

from meshnet.errors import BadInput

_SEQUENCE = 0x30
_VERSION = 0xA0
_BEFORE_KEY = 5
PIN_BYTES = 32


def spki_pin(certificate: bytes) -> str:
    """Return the pin of a DER certificate's key; raise BadInput for what is no certificate."""
    _, start, end = _element(certificate, 0, len(certificate))
    _, start, end = _element(certificate, start, end)
    if start < end and certificate[start] == _VERSION:
        start = _after(certificate, start, end)
    for _ in range(_BEFORE_KEY):
        start = _after(certificate, start, end)
    tag, _, key_end = _element(certificate, start, end)
    if tag != _SEQUENCE:
        raise BadInput("certificate holds no public key")
    return hashlib.sha256(certificate[start:key_end]).hexdigest()


def check_pin(text: str) -> str:
    """Return a pin in its one spelling, else raise BadInput."""
    if len(text) != 2 * PIN_BYTES or set(text) - set("0123456789abcdef"):
        raise BadInput(f"{text[:70]!r} is not a pin of 64 hex digits")
    return text


def _after(data: bytes, position: int, limit: int) -> int:
    return _element(data, position, limit)[2]


def _element(data: bytes, position: int, limit: int) -> tuple[int, int, int]:
    """Return tag, start and end of the content of the element at `position`."""
    if limit - position < 2:
        raise BadInput("certificate ends too early")
    tag, length, start = data[position], data[position + 1], position + 2
    if length >= 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4 or limit - start < size:
            raise BadInput("certificate has a length that is not DER")
        length = int.from_bytes(data[start : start + size], "big")
        start += size
    if length > limit - start:
        raise BadInput("certificate ends too early")
    return tag, start, start + length
