"""Pure. The algorithm of an authoritative server (RFC 1034, section 4.3.2), over our zones.

A name that exists with records of the type: those. With a CNAME: that, and on with its target while
it is ours. A name that exists otherwise: NODATA, the SOA beside it. None of these and no wildcard
above it: NXDOMAIN, likewise (RFC 2308). After a CNAME the code is that of the last name (RFC 6604).
"""

from __future__ import annotations

from meshnet.dns.compiled import Compiled
from meshnet.dns.query import NOERROR, NXDOMAIN
from meshnet.dns.records import (
    AAAA,
    ANY,
    CNAME,
    NS,
    SOA,
    SRV,
    A,
    negative,
    rdata,
    tails,
    with_serial,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.dns.lookup import Lookup

CHAIN_MAX = 8
TARGETS_MAX = 16
"""Most CNAMEs that are followed, and most targets whose addresses are added."""

_ASKED = b"\xc0\x0c"
"""A pointer to the name in the question."""


def resolve(lookup: Lookup, name: bytes, kind: int) -> tuple[Compiled, frozenset[bytes]]:
    """Return the answer for a name in one of our zones, and the names it was taken from.

    No names means that any change may end it: it says what is not there, or tells the serial.
    """
    chain: list[bytes] = []
    used = [name]
    owner, lasting = _ASKED, kind not in (SOA, ANY)
    while True:
        records = lookup.find(name)
        if records is None:
            lasting = False
            records = lookup.synthesize(name)
        found = _pick(lookup, records or b"", kind)
        target = None if found or kind == CNAME else _alias(records or b"")
        if target is None:
            break
        chain.append(owner + _tail_of(records or b"", CNAME))
        owner = name = target
        used.append(name)
        if lookup.origin(name) is None or len(chain) == CHAIN_MAX or name in used[:-1]:
            onward = name if lookup.origin(name) is None else b""
            return Compiled(NOERROR, chain, [], [], [], onward), _names(used, lasting)
    if found:
        additional, targets = _addresses(lookup, found)
        turning = [owner + tail for tail in found]
        return Compiled(NOERROR, chain, turning, [], additional), _names(used + targets, lasting)
    missing = records is None and not lookup.exists(name)
    rcode = NXDOMAIN if missing else NOERROR
    return Compiled(rcode, chain, [], _authority(lookup, name), []), frozenset()


def _names(used: list[bytes], lasting: bool) -> frozenset[bytes]:
    return frozenset(used) if lasting else frozenset()


def _pick(lookup: Lookup, records: bytes, kind: int) -> list[bytes]:
    """Return the records of one type; for ANY those of the first type (RFC 8482, section 4.1)."""
    by_kind: dict[int, list[bytes]] = {}
    for found, tail in tails(records):
        serial = with_serial(tail, lookup.serial) if found == SOA else tail
        by_kind.setdefault(found, []).append(serial)
    if kind == ANY:
        return next(iter(by_kind.values()), [])
    return by_kind.get(kind, [])


def _tail_of(records: bytes, kind: int) -> bytes:
    return next((tail for found, tail in tails(records) if found == kind), b"")


def _alias(records: bytes) -> bytes | None:
    """Return the target of a CNAME among the records, or None."""
    return rdata(_tail_of(records, CNAME)) or None


def _addresses(lookup: Lookup, found: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return the addresses of the names that SRV and NS records point to, and these names."""
    targets = list(dict.fromkeys(filter(None, map(_target, found))))[:TARGETS_MAX]
    return [
        target + tail
        for target in targets
        for kind, tail in tails(lookup.find(target) or b"")
        if kind in (A, AAAA)
    ], targets


def _target(tail: bytes) -> bytes:
    kind = int.from_bytes(tail[:2], "big")
    return {SRV: rdata(tail)[6:], NS: rdata(tail)}.get(kind, b"")


def _authority(lookup: Lookup, name: bytes) -> list[bytes]:
    """Return the SOA of the name's zone as a negative answer has it."""
    origin = lookup.origin(name) or b""
    soa = lookup.soa(origin)
    return [origin + negative(soa)] if soa else []
