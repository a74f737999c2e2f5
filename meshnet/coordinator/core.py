"""Shell. What all of the coordinator's services stand on, and the terms they give."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network

import msgspec

from meshnet.coordinator.committer import Batch, Committer
from meshnet.coordinator.rules import check_free_name
from meshnet.coordinator.world import World
from meshnet.errors import Unavailable
from meshnet.model.facts import Fact
from meshnet.model.statements import Mesh
from meshnet.wire.api import Granted
from meshnet.wire.fact import seal

DAY = 86_400


def _pool4() -> tuple[IPv4Network, ...]:
    """Return the prefixes of networks that nobody chose one for: 25 wide ones, then 240 narrow."""
    wide = [IPv4Network(f"10.{n}.0.0/16") for n in range(215, 240)]
    narrow = [part for n in range(240, 255) for part in IPv4Network(f"10.{n}.0.0/16").subnets(4)]
    return (*wide, *narrow)


class Terms(msgspec.Struct, frozen=True):
    """How long things hold, in seconds, and where networks get their prefixes."""

    membership: int = 30 * DAY
    lease: int = 7 * DAY
    lease_grace: int = 3600
    gone_grace: int = 30 * DAY
    first_prefix4: IPv4Network = IPv4Network("10.214.0.0/16")
    pool4: tuple[IPv4Network, ...] = _pool4()


@dataclass(frozen=True, slots=True)
class Core:
    """The coordinator's heart: its image of the mesh, the way to change it, its TLS pin."""

    world: World
    committer: Committer
    terms: Terms
    pin: str
    secret: bytes

    def mesh(self, now: int) -> Mesh:
        mesh = self.world.statements(now).mesh
        if mesh is None:
            raise Unavailable(
                "the issuing key's certificate has ended", "Run `meshnet coordinator renew-issuer`."
            )
        return mesh


def granted(batch: Batch, facts: list[Fact]) -> Granted:
    """Return the answer that brings `facts`."""
    return Granted(batch.revision, tuple(seal(fact) for fact in facts))


async def claim_name(batch: Batch, name: str, what: str, owner: str) -> None:
    """Take a name for a node or network; Conflict when a node, network or service has it."""
    holder = await batch.tx.name_holder(name)
    if holder is not None:
        kind, _ = holder
        check_free_name(name, what, "another node" if kind == what == "node" else f"a {kind}")
    if batch.world.offers_service(name, batch.now):
        check_free_name(name, what, f"service {name}")
    await batch.tx.claim_name(name, what, owner)
