"""Driver. The store over SQLAlchemy Core: SQLite in one file, journal ahead, every commit on disk.

`synchronous=FULL` in WAL mode means that a commit which was acknowledged survives a power cut. A
transaction takes the write lock at its beginning, so what it has read stays true until it ends.
A unique constraint stands behind every decision that two coordinators could take at once, and a
token is redeemed by one UPDATE whose WHERE holds all its conditions.

Statements run in the event loop's own thread: on one local file they take microseconds and touch
memory only. What waits for the disk is the commit, and that runs in a thread. (A driver that sends
every call to a thread, as aiosqlite does, made a join eight times as expensive: 28 hand-overs.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import (
    BindParameter,
    Connection,
    Engine,
    Row,
    Table,
    bindparam,
    create_engine,
    delete,
    event,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from meshnet.coordinator import schema
from meshnet.coordinator.rules import Held, TokenState
from meshnet.coordinator.store import Counters, NodeRow, StoredFact, Transaction
from meshnet.errors import Conflict, Unavailable
from meshnet.model.facts import Fact
from meshnet.model.keys import IdentityKey
from meshnet.model.records import Floor
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


def open_engine(path: Path) -> Engine:
    """Return an engine with one connection, which begins with the write lock."""
    engine = create_engine(
        f"sqlite:///{path}", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )

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

    return engine


def migrate(path: Path) -> None:
    """Bring a database file to the newest schema; make it when it is missing."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = open_engine(path)
    with mapped(), engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()


class SqlStore:
    """The store in a SQLite file that `migrate` has seen."""

    def __init__(self, path: Path) -> None:
        self._engine = open_engine(path)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        with mapped(), self._engine.connect() as connection:
            transaction = connection.begin()
            try:
                yield SqlTransaction(connection)
            except BaseException:
                transaction.rollback()
                raise
            await _finished(transaction.commit)

    async def facts(self) -> list[StoredFact]:
        """Return all facts, older revisions first."""
        table = schema.facts.c
        query = select(table.payload, table.signature, table.revision).order_by(
            table.revision, table.writer, table.kind, table.key
        )
        with mapped(), self._engine.begin() as connection:
            rows = connection.execute(query).all()
        return [StoredFact(SignedFact(row[0], row[1]), row[2]) for row in rows]

    async def close(self) -> None:
        self._engine.dispose()


async def _finished(call: Callable[[], None]) -> None:
    """Run a call in a thread, to its end even when the caller is cancelled."""
    work = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await work
        raise


def _upsert(table: Table) -> Any:
    """Return an INSERT that replaces the row of the same primary key."""
    keys = [column.name for column in table.primary_key]
    change = insert(table)
    return change.on_conflict_do_update(
        index_elements=keys,
        set_={c.name: change.excluded[c.name] for c in table.columns if c.name not in keys},
    )


_PUT_STATE = _upsert(schema.state)
_PUT_FACT = _upsert(schema.facts)
_PUT_NODE = _upsert(schema.nodes)
_PUT_LEASE = _upsert(schema.leases)
_STATE = select(schema.state)
_ID: BindParameter[str] = bindparam("wanted")
_TOKEN = select(schema.tokens).where(schema.tokens.c.id == _ID)
_NODE = select(schema.nodes).where(schema.nodes.c.id == _ID)
_NAME = select(schema.names).where(schema.names.c.name == _ID)
_LEASES = select(schema.leases).where(schema.leases.c.network == _ID)
_LEASES_OF = select(schema.leases).where(schema.leases.c.node == _ID)
_REDEEM = (
    update(schema.tokens)
    .where(
        schema.tokens.c.id == _ID,
        schema.tokens.c.revoked.is_(False),
        schema.tokens.c.expires > bindparam("now"),
        schema.tokens.c.used < schema.tokens.c.uses,
    )
    .values(used=schema.tokens.c.used + 1)
)


class SqlTransaction:
    """One transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._addresses: set[int] | None = None

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        with mapped():
            self._connection.exec_driver_sql("SAVEPOINT work")
            try:
                yield
            except BaseException:
                self._addresses = None
                self._connection.exec_driver_sql("ROLLBACK TO work")
                raise
            finally:
                self._connection.exec_driver_sql("RELEASE work")

    async def counters(self) -> Counters:
        row = self._connection.execute(_STATE).one()
        return Counters(row.store, row.revision, row.horizon, row.sequence, row.vni)

    async def set_counters(self, counters: Counters) -> None:
        values = {
            "id": 1,
            "store": counters.store,
            "revision": counters.revision,
            "horizon": counters.horizon,
            "sequence": counters.sequence,
            "vni": counters.vni,
        }
        self._connection.execute(_PUT_STATE, values)

    async def put_facts(self, facts: Iterable[Fact], revision: int) -> None:
        rows = [_fact_values(fact, revision) for fact in facts]
        if rows:
            self._connection.execute(_PUT_FACT, rows)

    async def drop_below(self, writer: IdentityKey, sequence: int) -> None:
        """Drop what a writer's floor at `sequence` makes void."""
        table = schema.facts.c
        self._connection.execute(
            delete(schema.facts).where(
                table.writer == str(writer),
                table.sequence < sequence,
                table.kind != Floor.KIND,
            )
        )

    async def forget(self, writer: IdentityKey) -> None:
        table = schema.facts
        self._connection.execute(delete(table).where(table.c.writer == str(writer)))

    # Tokens

    async def token(self, token_id: str) -> TokenState | None:
        row = self._first(_TOKEN, token_id)
        return None if row is None else _token(row)

    async def tokens(self) -> list[TokenState]:
        table = schema.tokens
        query = select(table).order_by(table.c.created, table.c.id)
        return [_token(row) for row in self._connection.execute(query)]

    async def add_token(self, token: TokenState) -> None:
        values = {
            "id": token.id,
            "hash": token.hash,
            "created": token.created,
            "expires": token.expires,
            "uses": token.uses,
            "used": token.used,
            "revoked": token.revoked,
            "tags": json.dumps(token.tags),
        }
        self._connection.execute(insert(schema.tokens), values)

    async def revoke_token(self, token_id: str) -> bool:
        table = schema.tokens
        change = update(table).where(table.c.id == token_id).values(revoked=True)
        return self._connection.execute(change).rowcount == 1

    async def redeem(self, token_id: str, now: int) -> bool:
        """Take one use, if there is one: a single statement, so never one too many."""
        values = {"wanted": token_id, "now": now}
        return self._connection.execute(_REDEEM, values).rowcount == 1

    # Nodes and names

    async def node(self, node_id: str) -> NodeRow | None:
        row = self._first(_NODE, node_id)
        return None if row is None else _node(row)

    async def nodes(self) -> list[NodeRow]:
        query = select(schema.nodes).order_by(schema.nodes.c.name, schema.nodes.c.id)
        return [_node(row) for row in self._connection.execute(query)]

    async def taken_addresses(self) -> set[int]:
        """Return all IPv4 mesh addresses in use; read once in a transaction, then kept."""
        if self._addresses is None:
            self._addresses = set(self._connection.scalars(select(schema.nodes.c.address4)))
        return self._addresses

    async def put_node(self, node: NodeRow) -> None:
        values = {
            "id": node.id,
            "name": node.name,
            "identity": str(node.identity),
            "address4": int(node.address4),
            "token": node.token,
            "joined": node.joined,
            "not_after": node.not_after,
            "revoked": node.revoked,
        }
        self._connection.execute(_PUT_NODE, values)
        if self._addresses is not None:
            self._addresses.add(int(node.address4))

    async def drop_node(self, node_id: str) -> None:
        self._connection.execute(delete(schema.nodes).where(schema.nodes.c.id == node_id))
        self._addresses = None

    async def name_holder(self, name: str) -> tuple[str, str] | None:
        """Return kind and owner of a name that is taken."""
        row = self._first(_NAME, name)
        return None if row is None else (row.kind, row.owner)

    async def claim_name(self, name: str, kind: str, owner: str) -> None:
        values = {"name": name, "kind": kind, "owner": owner}
        self._connection.execute(insert(schema.names), values)

    async def release_name(self, name: str, kind: str) -> None:
        table = schema.names
        self._connection.execute(delete(table).where(table.c.name == name, table.c.kind == kind))

    # Leases

    async def leases(self, network: str) -> list[Held]:
        return [_held(row) for row in self._connection.execute(_LEASES, {"wanted": network})]

    async def leases_of(self, node_id: str) -> list[Held]:
        return [_held(row) for row in self._connection.execute(_LEASES_OF, {"wanted": node_id})]

    async def put_leases(self, leases: Iterable[Held]) -> None:
        rows = [
            {
                "network": lease.network,
                "prefix": str(lease.prefix),
                "node": lease.node,
                "not_after": lease.not_after,
            }
            for lease in leases
        ]
        if rows:
            self._connection.execute(_PUT_LEASE, rows)

    async def drop_leases(self, leases: Iterable[Held]) -> None:
        table = schema.leases
        for lease in leases:
            self._connection.execute(
                delete(table).where(
                    table.c.network == lease.network, table.c.prefix == str(lease.prefix)
                )
            )

    def _first(self, query: Any, wanted: str) -> Row[Any] | None:
        return self._connection.execute(query, {"wanted": wanted}).first()


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
