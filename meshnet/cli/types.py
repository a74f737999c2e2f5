"""Pure. What arguments may be, as functions from text to a value that is valid from there on.

A wrong argument stops here with the rule it broke, before anybody is asked anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network

from meshnet.errors import BadInput
from meshnet.model.names import check_name
from meshnet.wire.port import port as port

_DURATION = re.compile(r"([0-9]{1,9})([smhdw])?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, None: 1}
_CENTURY = 100 * 365 * 86400


def name_of(what: str) -> Callable[[str], str]:
    """Return the type of names of a `what` (node, network, service, …)."""

    def name(text: str) -> str:
        return check_name(text, what)

    return name


def duration(text: str) -> int:
    """Read `90`, `90s`, `15m`, `1h`, `7d` or `2w`; return seconds, more than none."""
    match = _DURATION.fullmatch(text)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds < _CENTURY:
        raise BadInput(
            f"duration {text[:80]!r} is not a number with s, m, h, d or w",
            "Write 90s, 15m, 1h, 7d or 2w.",
        )
    return seconds


def address(text: str) -> str:
    """Check an IPv4 or IPv6 address; return its usual form."""
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise BadInput(
            f"{text[:80]!r} is not an address",
            "Write 10.214.0.7 or fd00::7, without a prefix length.",
        ) from error


def prefix(text: str) -> str:
    """Check an IPv4 or IPv6 prefix; return its usual form."""
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise BadInput(
            f"{text[:80]!r} is not a prefix: {error}", "Write 10.20.0.0/16 or fd00:20::/64."
        ) from error


def pair(text: str) -> tuple[str, str]:
    """Read `KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadInput(f"{text[:80]!r} is not KEY=VALUE", "Write for example version=2.")
    return key, value
