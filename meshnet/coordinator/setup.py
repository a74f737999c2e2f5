"""Shell. Setting a coordinator up: `meshnet coordinator init`, and a new issuing key later on.

Everything of a mesh begins here: the root key, the issuing key it certifies, the TLS key, and the
first statements (mesh, coordinators, network `default`) in a new store.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from meshnet.coordinator import rules, tls
from meshnet.coordinator.config import (
    DEFAULT_PORT,
    DEFAULT_STATE_DIR,
    Config,
    Directory,
    Listen,
)
from meshnet.coordinator.core import DAY, Terms
from meshnet.coordinator.sql import SqlStore, migrate
from meshnet.coordinator.store import Counters
from meshnet.errors import BadInput
from meshnet.model.addresses import mesh_prefix6, network_prefix6
from meshnet.model.facts import Fact
from meshnet.model.keys import IdentityKey, SigningKey
from meshnet.model.names import DEFAULT_NETWORK
from meshnet.model.statements import Coordinators, Issuer, Mesh, Network, Statement
from meshnet.wire.fact import sign
from meshnet.wire.token import check_url

MESH_PREFIX4 = IPv4Network("10.213.0.0/16")
ISSUER_SECONDS = 5 * 365 * DAY


@dataclass(frozen=True, slots=True)
class Initialised:
    """What `init` made."""

    state_dir: Path
    urls: tuple[str, ...]
    listen: tuple[Listen, ...]
    root: IdentityKey
    pin: str
    mesh_prefix4: IPv4Network


def initialise(
    state_dir: Path = DEFAULT_STATE_DIR,
    urls: Sequence[str] = (),
    listen: Sequence[str] = (),
    mesh_prefix4: str | IPv4Network = MESH_PREFIX4,
    terms: Terms | None = None,
) -> Initialised:
    """Make keys, certificate, store and first statements; Conflict when they are there already.

    `urls` are those nodes will use (without: this machine's address), `listen` are HOST:PORT
    (without: the port of the first URL, on all addresses).
    """
    prefix4, terms = _mesh_prefix(mesh_prefix4), terms or Terms()
    if terms.first_prefix4.overlaps(prefix4):
        terms = _moved(terms, prefix4)
    ports = tuple(Listen.parse(text) for text in listen)
    known_as = tuple(check_url(url.rstrip("/")) for url in urls) or (_own_url(ports),)
    ports = ports or (Listen(port=_port(known_as[0])),)
    directory = Directory(state_dir)
    directory.make()
    root, issuer = SigningKey(os.urandom(32)), SigningKey(os.urandom(32))
    directory.write_key("root", root)
    directory.write_key("issuer", issuer)
    pin = _make_tls(directory)
    statements = _first_statements(root.public, prefix4, terms, Coordinators(known_as, (pin,)))
    asyncio.run(_fill(directory, root, issuer, statements))
    directory.write_config(Config(root.public, known_as, ports, terms))
    return Initialised(state_dir, known_as, ports, root.public, pin, prefix4)


def renew_issuer(state_dir: Path = DEFAULT_STATE_DIR, root_key: Path | None = None) -> None:
    """Certify the issuing key anew, by the root key; the coordinator must not be running."""
    directory = Directory(state_dir)
    holder = Directory(root_key.parent) if root_key else directory
    root, issuer = holder.key(root_key.stem if root_key else "root"), directory.key("issuer")
    if root.public != directory.config().root:
        raise BadInput("that is not the root key of this mesh")
    lock = directory.lock()
    try:
        migrate(directory.store)
        asyncio.run(_certify(directory, root, issuer))
    finally:
        os.close(lock)


def _make_tls(directory: Directory) -> str:
    key, certificate = tls.make_certificate()
    directory.write("tls.key", key)
    directory.write("tls.crt", certificate)
    return tls.pin_of(certificate.decode())


def _first_statements(
    root: IdentityKey, prefix4: IPv4Network, terms: Terms, coordinators: Coordinators
) -> list[Statement]:
    prefix6 = mesh_prefix6(root.raw)
    prefixes = (terms.first_prefix4, network_prefix6(prefix6, rules.FIRST_VNI))
    return [
        Mesh(prefix4, prefix6),
        coordinators,
        Network(DEFAULT_NETWORK, rules.FIRST_VNI, prefixes),
    ]


async def _fill(
    directory: Directory, root: SigningKey, issuer: SigningKey, statements: Sequence[Statement]
) -> None:
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            directory.store.with_name(directory.store.name + suffix).unlink()
    migrate(directory.store)
    directory.store.chmod(0o600)
    now = int(time.time())
    sequence = now * 1000
    facts = [_certificate(root, issuer, now)]
    facts += [sign(issuer, body, sequence + n) for n, body in enumerate(statements)]
    counters = Counters(secrets.token_hex(8), 1, 0, sequence + len(facts), rules.FIRST_VNI)
    store = SqlStore(directory.store)
    try:
        async with store.begin() as tx:
            await tx.set_counters(counters)
            await tx.put_facts(facts, counters.revision)
            await tx.claim_name(DEFAULT_NETWORK, "network", DEFAULT_NETWORK)
    finally:
        await store.close()


async def _certify(directory: Directory, root: SigningKey, issuer: SigningKey) -> None:
    store = SqlStore(directory.store)
    try:
        async with store.begin() as tx:
            counters = await tx.counters()
            fact = _certificate(root, issuer, int(time.time()))
            revision = counters.revision + 1
            await tx.put_facts([fact], revision)
            await tx.set_counters(
                Counters(
                    counters.store, revision, counters.horizon, counters.sequence, counters.vni
                )
            )
    finally:
        await store.close()


def _certificate(root: SigningKey, issuer: SigningKey, now: int) -> Fact:
    return sign(root, Issuer(issuer.public, now + ISSUER_SECONDS), now * 1000)


def _mesh_prefix(prefix: str | IPv4Network) -> IPv4Network:
    try:
        network = IPv4Network(prefix)
    except ValueError as error:
        raise BadInput(f"{prefix!s:.80} is not an IPv4 prefix", "Give A.B.C.D/N.") from error
    if network.prefixlen > 28 or network.is_multicast or network.is_loopback:
        raise BadInput(f"{network} cannot hold a mesh's nodes", "Give a private /28 or larger.")
    return network


def _moved(terms: Terms, mesh: IPv4Network) -> Terms:
    """Network `default` gives way when the mesh itself takes its prefix."""
    first = rules.free_prefix4(terms.first_prefix4, terms.pool4, [mesh])
    assert isinstance(first, IPv4Network)
    return Terms(
        terms.membership, terms.lease, terms.lease_grace, terms.gone_grace, first, terms.pool4
    )


def _port(url: str) -> int:
    _, _, port = url.rpartition(":")
    return int(port) if port.isdigit() else 443


def _own_url(listen: Sequence[Listen]) -> str:
    """Return a URL by the address this machine reaches others from."""
    port = listen[0].port if listen else DEFAULT_PORT
    return f"https://{_own_address()}:{port}"


def _own_address() -> str:
    """Ask the routing table; connecting a datagram socket sends nothing."""
    for family, somewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((somewhere, 9))
            address = str(sock.getsockname()[0])
            return f"[{address}]" if ":" in address else address
    raise BadInput(
        "this machine has no address that others could reach",
        "Give one by --url https://HOST:PORT.",
    )
