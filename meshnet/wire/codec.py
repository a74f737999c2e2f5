"""Pure. JSON for our values: msgspec with one pair of hooks for addresses and keys.

`encode` is canonical: keys sorted, no white space, so equal values have equal bytes.
"""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, TypeVar

import msgspec

from meshnet.errors import BadInput, MeshnetError
from meshnet.model.addresses import Address, Endpoint, Prefix
from meshnet.model.keys import IdentityKey, PublicKey

T = TypeVar("T")

_TEXT = (IPv4Address, IPv6Address, IPv4Network, IPv6Network, PublicKey, IdentityKey, Endpoint)
_PARSERS: dict[Any, Any] = {
    IPv4Address: IPv4Address,
    IPv6Address: IPv6Address,
    IPv4Network: IPv4Network,
    IPv6Network: IPv6Network,
    Address: ip_address,
    Prefix: ip_network,
    PublicKey: PublicKey.parse,
    IdentityKey: IdentityKey.parse,
    Endpoint: Endpoint.parse,
}


def _encode_hook(value: object) -> str:
    if isinstance(value, _TEXT):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")


def _decode_hook(kind: Any, value: object) -> object:
    parser = _PARSERS.get(kind)
    if parser is None:
        raise NotImplementedError(f"{kind} has no JSON form")
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {type(value).__name__}")
    try:
        return parser(value)
    except MeshnetError as error:
        raise ValueError(error.message) from error


_encoder = msgspec.json.Encoder(enc_hook=_encode_hook, order="deterministic")
_raw_decoder = msgspec.json.Decoder()


def encode(value: object) -> bytes:
    """Return the canonical JSON of a value."""
    return _encoder.encode(value)


def decode(data: bytes | str, kind: type[T], what: str) -> T:
    """Read JSON into a `kind`; raise BadInput naming `what` for anything that does not fit."""
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=_decode_hook)
    except (msgspec.DecodeError, MeshnetError, ValueError, RecursionError) as error:
        raise BadInput(f"{what} is not valid: {error}") from error


def convert(value: object, kind: type[T], what: str) -> T:
    """Read decoded JSON (dicts, lists, text, numbers) into a `kind`; raise BadInput otherwise."""
    try:
        return msgspec.convert(value, kind, dec_hook=_decode_hook)
    except (msgspec.ValidationError, MeshnetError, ValueError, RecursionError) as error:
        raise BadInput(f"{what} is not valid: {error}") from error


def canonical(data: bytes) -> bytes:
    """Return the canonical form of any JSON text; raise BadInput when it is not JSON."""
    try:
        return _encoder.encode(_raw_decoder.decode(data))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadInput(f"not JSON: {error}") from error
