"""Pure. Static records: from presentation form to wire form, or why not.

Names in values are read as a zone file of `mesh.` would (RFC 1035, section 5.1): with a last dot
they are absolute, without one they are below `mesh.`. One kindness: a name that ends in the label
`mesh` is taken as absolute, since `mesh` is reserved and `web.mesh.mesh` was never meant.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address

from meshnet.dns.records import AAAA, CNAME, SRV, A, name, suffixes, tail, text, txt_tail
from meshnet.errors import BadInput
from meshnet.model.names import ZONE
from meshnet.model.statements import StaticRecord

TTL_MAX = 86400
TXT_MAX = 4096
APEX = name(ZONE)

_STRING = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|((?:[^\s"\\]|\\.)+))')
_ESCAPE = re.compile(rb"\\(\d{3}|.)", re.DOTALL)


def read_static(records: Iterable[StaticRecord]) -> tuple[dict[bytes, bytes], list[str]]:
    """Return static records by owner, and a sentence for each that cannot be served.

    A CNAME stands alone (RFC 1034, section 3.6.2): beside other types at the same name it wins.
    """
    owned: dict[bytes, dict[str, bytes]] = {}
    problems: list[str] = []
    for record in sorted(records, key=lambda record: record.slot):
        try:
            owner = read_owner(record.name)
            owned.setdefault(owner, {})[record.type] = _read(record, owner)
        except BadInput as error:
            problems.append(f"static record {record.slot}: {error.message}")
    for owner, by_type in owned.items():
        if "CNAME" in by_type and len(by_type) > 1:
            problems.append(f"static CNAME at {text(owner)} hides the other records there")
    return {owner: _standing(by_type) for owner, by_type in owned.items()}, problems


def _standing(by_type: dict[str, bytes]) -> bytes:
    if "CNAME" in by_type:
        return by_type["CNAME"]
    return b"".join(by_type[kind] for kind in sorted(by_type))


def read_owner(relative: str) -> bytes:
    """Return the wire name of a static record's owner; `@` is the apex. Raise BadInput."""
    owner = APEX if relative in ("", "@") else _name(relative)
    if APEX not in suffixes(owner):
        raise BadInput(f"{relative[:80]!r} is not in the zone {ZONE}")
    if b"*" in owner.removeprefix(b"\x01*"):
        raise BadInput("an asterisk may only be the first label", "See RFC 4592, section 2.1.1.")
    return owner


def _name(relative: str) -> bytes:
    absolute = relative.endswith(".") or relative.split(".")[-1].lower() == ZONE
    return name(relative if absolute else f"{relative}.{ZONE}")


def _read(record: StaticRecord, owner: bytes) -> bytes:
    read = _READERS.get(record.type)
    if read is None:
        raise BadInput(f"type {record.type[:20]!r} is none of {', '.join(sorted(_READERS))}")
    if not record.values:
        raise BadInput("it has no value")
    if record.type == "CNAME" and (len(record.values) > 1 or owner == APEX):
        raise BadInput("a CNAME has one value and is not the apex")
    ttl = max(0, min(record.ttl, TTL_MAX))
    return b"".join(dict.fromkeys(read(value, ttl) for value in record.values))


def _a(value: str, ttl: int) -> bytes:
    try:
        return tail(A, ttl, IPv4Address(value).packed)
    except ValueError as error:
        raise BadInput(f"{value[:40]!r} is not an IPv4 address") from error


def _aaaa(value: str, ttl: int) -> bytes:
    try:
        return tail(AAAA, ttl, IPv6Address(value).packed)
    except ValueError as error:
        raise BadInput(f"{value[:60]!r} is not an IPv6 address") from error


def _cname(value: str, ttl: int) -> bytes:
    return tail(CNAME, ttl, _name(value))


def _txt(value: str, ttl: int) -> bytes:
    """Read character-strings, quoted or bare, with \\X and \\DDD (RFC 1035, section 5.1)."""
    strings, at = [], 0
    while value[at:].strip():
        found = _STRING.match(value, at)
        if found is None:
            raise BadInput(f"{value[:80]!r} has an open quote or a last backslash")
        strings.append(found[2] if found[1] is None else found[1])
        at = found.end()
    read = [_unescape(string) for string in strings] or [b""]
    if sum(map(len, read)) > TXT_MAX:
        raise BadInput(f"a TXT record of over {TXT_MAX} bytes fits into no answer")
    return txt_tail(ttl, read)


def _unescape(string: str) -> bytes:
    def byte(found: re.Match[bytes]) -> bytes:
        escaped = found[1]
        if len(escaped) == 1:
            return escaped
        if int(escaped) > 255:
            raise BadInput(f"\\{escaped.decode()} in a TXT record is over 255")
        return bytes([int(escaped)])

    return _ESCAPE.sub(byte, string.encode())


def _srv(value: str, ttl: int) -> bytes:
    try:
        priority, weight, port, target = value.split()
        numbers = struct.pack(">HHH", int(priority), int(weight), int(port))
    except (ValueError, struct.error) as error:
        raise BadInput(f"{value[:80]!r} is not PRIORITY WEIGHT PORT TARGET") from error
    return tail(SRV, ttl, numbers + (b"\0" if target == "." else _name(target)))


_READERS: dict[str, Callable[[str, int], bytes]] = {
    "A": _a,
    "AAAA": _aaaa,
    "CNAME": _cname,
    "TXT": _txt,
    "SRV": _srv,
}
