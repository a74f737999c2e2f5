"""Shell. The host's side of DNS: which upstreams it uses, and asking our own server a question."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from dnslib import QTYPE, RCODE, DNSError, DNSRecord
from dnslib.label import DNSLabelError

from meshnet.errors import BadInput, Unavailable
from meshnet.linux import resolvconf, resolved
from meshnet.linux.resolvconf import nameservers
from meshnet.model.names import ZONE
from meshnet.wire.local import DnsAnswer
from meshnet.wire.local import DnsRecord as Answer

UPSTREAMS_LIMIT = 3
TIME_LIMIT = 3.0


def host_upstreams(own: Sequence[str]) -> tuple[str, ...]:
    """Return the DNS servers this host uses, none of them ourselves."""
    servers = nameservers(resolvconf.read())
    if resolved.STUB in servers:
        servers = nameservers(resolvconf.read(resolved.UPLINK_CONF)) or servers
    return tuple(server for server in servers if server not in own)[:UPSTREAMS_LIMIT]


async def look_up(servers: Sequence[str], name: str, kind: str) -> DnsAnswer:
    """Ask the first of `servers`; names without a dot are taken to be in the mesh's zone."""
    full = name if "." in name.rstrip(".") or name == ZONE else f"{name}.{ZONE}"
    if kind not in QTYPE.reverse:
        raise BadInput(f"{kind[:20]!r} is no DNS type", "Use A, AAAA, SRV, TXT, PTR, SOA or NS.")
    if not servers:
        raise Unavailable("this node has no DNS server: it is no member yet")
    try:
        question = DNSRecord.question(full, kind)
    except (DNSError, DNSLabelError, UnicodeError) as error:
        raise BadInput(f"{name[:80]!r} is no DNS name: {error}") from error
    started = time.monotonic()
    reply = await _ask(servers[0], question.pack())
    return DnsAnswer(
        name=full,
        type=kind,
        rcode=str(RCODE.get(reply.header.rcode)),
        answers=tuple(_record(rr) for rr in reply.rr),
        authority=tuple(_record(rr) for rr in reply.auth),
        server=servers[0],
        milliseconds=round((time.monotonic() - started) * 1000, 3),
    )


async def _ask(server: str, question: bytes) -> DNSRecord:
    """Ask over TCP, where an answer of any size fits."""
    try:
        async with asyncio.timeout(TIME_LIMIT):
            reader, writer = await asyncio.open_connection(server, 53)
            try:
                writer.write(len(question).to_bytes(2, "big") + question)
                size = int.from_bytes(await reader.readexactly(2), "big")
                return DNSRecord.parse(await reader.readexactly(size))
            finally:
                writer.close()
    except (OSError, TimeoutError, EOFError, DNSError) as error:
        why = str(error) or f"nothing for {TIME_LIMIT:g} s"
        raise Unavailable(f"the node's DNS server does not answer: {why}") from error


def _record(rr: Any) -> Answer:
    kind = str(QTYPE.get(rr.rtype))
    name, ttl, data = str(rr.rname), int(rr.ttl), str(rr.rdata)
    return Answer(name=name, type=kind, ttl=ttl, data=data)
