"""Driver. The store over SQLAlchemy Core: SQLite in one file, journal ahead, every commit on disk.

`synchronous=FULL` in WAL mode means that a commit which was acknowledged survives a power cut. A
transaction takes the write lock at its beginning, so what it has read stays true until it ends.
A unique constraint stands behind every decision that two coordinators could take at once, and a
token is redeemed by one UPDATE whose WHERE holds all its conditions.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import asdict
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Row, create_engine, delete, event, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from meshnet.coordinator import schema
from meshnet.coordinator.rules import Held, TokenState
from meshnet.coordinator.store import Counters, NodeRow, StoredFact, Transaction
from meshnet.errors import Conflict, Unavailable
from meshnet.model.facts import Fact
from meshnet.model.keys import IdentityKey
from meshnet.wire.fact import SignedFact, seal

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 10
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}",
)


@contextlib.contextmanager
def mapped() -> Iterator[None]:
    """Turn the database's errors into ours."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict("somebody else took a name or an address at the same time") from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise Unavailable(
            f"the store cannot be used: {cause}", "Look at the disk it lies on, and its log."
        ) from error


def migrate(path: Path) -> None:
    """Bring a database file to the newest schema; make it when it is missing."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(f"sqlite:///{path}")
    _prepare(engine)
    with mapped(), engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()


def _prepare(engine: Any) -> None:
    """Set each connection up, and begin with the write lock (the driver would begin too late)."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


class SqlStore:
    """The store in a SQLite file that `migrate` has seen."""

    def __init__(self, path: Path) -> None:
        self._engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=1)
        _prepare(self._engine.sync_engine)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        with mapped():
            async with self._engine.begin() as connection:
                yield SqlTransaction(connection)

    async def facts(self) -> list[StoredFact]:
        """Return all facts, older revisions first."""
        table = schema.facts.c
        query = select(table.payload, table.signature, table.revision).order_by(
            table.revision, table.writer, table.kind, table.key
        )
        with mapped():
            async with self._engine.begin() as connection:
                rows = (await connection.execute(query)).all()
        return [StoredFact(SignedFact(row[0], row[1]), row[2]) for row in rows]

    async def close(self) -> None:
        await self._engine.dispose()


class SqlTransaction:
    """One transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._addresses: set[int] | None = None

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        with mapped():
            async with self._connection.begin_nested():
                yield

    async def counters(self) -> Counters:
        row = (await self._connection.execute(select(schema.state))).one()
        return Counters(row.store, row.revision, row.horizon, row.sequence, row.vni)

    async def set_counters(self, counters: Counters) -> None:
        values = {"id": 1, **asdict(counters)}
        await self._upsert(schema.state, [values])

    async def put_facts(self, facts: Iterable[Fact], revision: int) -> None:
        await self._upsert(schema.facts, [_fact_values(fact, revision) for fact in facts])

    async def forget(self, writer: IdentityKey) -> None:
        table = schema.facts
        await self._connection.execute(delete(table).where(table.c.writer == str(writer)))

    # Tokens

    async def token(self, token_id: str) -> TokenState | None:
        query = select(schema.tokens).where(schema.tokens.c.id == token_id)
        row = (await self._connection.execute(query)).first()
        return None if row is None else _token(row)

    async def tokens(self) -> list[TokenState]:
        table = schema.tokens
        query = select(table).order_by(table.c.created, table.c.id)
        return [_token(row) for row in await self._connection.execute(query)]

    async def add_token(self, token: TokenState) -> None:
        values = {**asdict(token), "tags": json.dumps(token.tags)}
        await self._connection.execute(insert(schema.tokens).values(values))

    async def revoke_token(self, token_id: str) -> bool:
        table = schema.tokens
        change = update(table).where(table.c.id == token_id).values(revoked=True)
        return (await self._connection.execute(change)).rowcount == 1

    async def redeem(self, token_id: str, now: int) -> bool:
        """Take one use, if there is one: a single statement, so never one too many."""
        table = schema.tokens
        change = (
            update(table)
            .where(
                table.c.id == token_id,
                table.c.revoked.is_(False),
                table.c.expires > now,
                table.c.used < table.c.uses,
            )
            .values(used=table.c.used + 1)
        )
        return (await self._connection.execute(change)).rowcount == 1

    # Nodes and names

    async def node(self, node_id: str) -> NodeRow | None:
        query = select(schema.nodes).where(schema.nodes.c.id == node_id)
        row = (await self._connection.execute(query)).first()
        return None if row is None else _node(row)

    async def nodes(self) -> list[NodeRow]:
        query = select(schema.nodes).order_by(schema.nodes.c.name, schema.nodes.c.id)
        return [_node(row) for row in await self._connection.execute(query)]

    async def taken_addresses(self) -> set[int]:
        """Return all IPv4 mesh addresses in use; read once in a transaction, then kept."""
        if self._addresses is None:
            rows = await self._connection.execute(select(schema.nodes.c.address4))
            self._addresses = set(rows.scalars())
        return self._addresses

    async def put_node(self, node: NodeRow) -> None:
        values = {
            **asdict(node),
            "identity": str(node.identity),
            "address4": int(node.address4),
        }
        await self._upsert(schema.nodes, [values])
        if self._addresses is not None:
            self._addresses.add(int(node.address4))

    async def drop_node(self, node_id: str) -> None:
        await self._connection.execute(delete(schema.nodes).where(schema.nodes.c.id == node_id))

    async def name_holder(self, name: str) -> tuple[str, str] | None:
        """Return kind and owner of a name that is taken."""
        query = select(schema.names).where(schema.names.c.name == name)
        row = (await self._connection.execute(query)).first()
        return None if row is None else (row.kind, row.owner)

    async def claim_name(self, name: str, kind: str, owner: str) -> None:
        values = {"name": name, "kind": kind, "owner": owner}
        await self._connection.execute(insert(schema.names).values(values))

    async def release_name(self, name: str, kind: str) -> None:
        table = schema.names
        change = delete(table).where(table.c.name == name, table.c.kind == kind)
        await self._connection.execute(change)

    # Leases

    async def leases(self, network: str) -> list[Held]:
        query = select(schema.leases).where(schema.leases.c.network == network)
        return [_held(row) for row in await self._connection.execute(query)]

    async def leases_of(self, node_id: str) -> list[Held]:
        query = select(schema.leases).where(schema.leases.c.node == node_id)
        return [_held(row) for row in await self._connection.execute(query)]

    async def put_leases(self, leases: Iterable[Held]) -> None:
        rows = [{**asdict(lease), "prefix": str(lease.prefix)} for lease in leases]
        await self._upsert(schema.leases, rows)

    async def drop_leases(self, leases: Iterable[Held]) -> None:
        table = schema.leases
        for lease in leases:
            await self._connection.execute(
                delete(table).where(
                    table.c.network == lease.network, table.c.prefix == str(lease.prefix)
                )
            )

    async def _upsert(self, table: Any, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        keys = [column.name for column in table.primary_key]
        change = insert(table)
        change = change.on_conflict_do_update(
            index_elements=keys,
            set_={name: change.excluded[name] for name in rows[0] if name not in keys},
        )
        await self._connection.execute(change, rows)


def _fact_values(fact: Fact, revision: int) -> dict[str, Any]:
    signed = seal(fact)
    return {
        "writer": str(fact.slot.writer),
        "kind": fact.slot.kind,
        "key": fact.slot.key,
        "sequence": fact.sequence,
        "payload": signed.payload,
        "signature": signed.signature,
        "revision": revision,
    }


def _token(row: Row[Any]) -> TokenState:
    return TokenState(
        row.id,
        bytes(row.hash),
        row.created,
        row.expires,
        row.uses,
        row.used,
        bool(row.revoked),
        tuple(json.loads(row.tags)),
    )


def _node(row: Row[Any]) -> NodeRow:
    return NodeRow(
        row.id,
        row.name,
        IdentityKey.parse(row.identity),
        IPv4Address(row.address4),
        row.token,
        row.joined,
        row.not_after,
        bool(row.revoked),
    )


def _held(row: Row[Any]) -> Held:
    return Held(row.network, ip_network(row.prefix), row.node, row.not_after)
