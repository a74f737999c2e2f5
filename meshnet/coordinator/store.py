"""Shell. What the coordinator needs of a store, whichever database stands behind it.

One transaction is one `Transaction`; it is durable when `Store.begin` has been left without an
error, and has not happened otherwise. `savepoint` undoes a part. A name or address that somebody
else took meanwhile is Conflict; a database that cannot be reached or written is Unavailable.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

from meshnet.coordinator.rules import Held, TokenState
from meshnet.model.facts import Fact
from meshnet.model.keys import IdentityKey
from meshnet.wire.fact import SignedFact


@dataclass(frozen=True, slots=True)
class Counters:
    """The one row of `state`. Facts before `horizon` may have been forgotten."""

    store: str
    revision: int = 0
    horizon: int = 0
    sequence: int = 0
    vni: int = 0


@dataclass(frozen=True, slots=True)
class NodeRow:
    """What the coordinator keeps of a node beside its membership."""

    id: str
    name: str
    identity: IdentityKey
    address4: IPv4Address
    token: str
    joined: int
    not_after: int
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class StoredFact:
    """A fact as it lies in the store."""

    signed: SignedFact
    revision: int


class Transaction(Protocol):
    """What can be done inside one transaction."""

    def savepoint(self) -> AbstractAsyncContextManager[None]: ...

    async def counters(self) -> Counters: ...

    async def set_counters(self, counters: Counters) -> None: ...

    async def put_facts(self, facts: Iterable[Fact], revision: int) -> None: ...

    async def drop_below(self, writer: IdentityKey, sequence: int) -> None: ...

    async def forget(self, writer: IdentityKey) -> None: ...

    async def token(self, token_id: str) -> TokenState | None: ...

    async def tokens(self) -> list[TokenState]: ...

    async def add_token(self, token: TokenState) -> None: ...

    async def revoke_token(self, token_id: str) -> bool: ...

    async def redeem(self, token_id: str, now: int) -> bool: ...

    async def node(self, node_id: str) -> NodeRow | None: ...

    async def nodes(self) -> list[NodeRow]: ...

    async def taken_addresses(self) -> set[int]: ...

    async def put_node(self, node: NodeRow) -> None: ...

    async def drop_node(self, node_id: str) -> None: ...

    async def name_holder(self, name: str) -> tuple[str, str] | None: ...

    async def claim_name(self, name: str, kind: str, owner: str) -> None: ...

    async def release_name(self, name: str, kind: str) -> None: ...

    async def leases(self, network: str) -> list[Held]: ...

    async def leases_of(self, node_id: str) -> list[Held]: ...

    async def put_leases(self, leases: Iterable[Held]) -> None: ...

    async def drop_leases(self, leases: Iterable[Held]) -> None: ...


class Store(Protocol):
    """A database that keeps the mesh."""

    def begin(self) -> AbstractAsyncContextManager[Transaction]: ...

    async def facts(self) -> list[StoredFact]: ...

    async def close(self) -> None: ...
