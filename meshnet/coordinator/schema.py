"""Pure. The tables of the store, as SQLAlchemy Core sees them; the migrations make them.

`facts` is the mesh: the newest fact of every slot, with the revision that brought it. The others
are what the coordinator alone knows: hashes of tokens, which node has which address, who has which
name, leases. `state` has one row: the store's id and the counters.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

metadata = MetaData()

state = Table(
    "state",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("store", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("horizon", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("vni", BigInteger, nullable=False),
)

facts = Table(
    "facts",
    metadata,
    Column("writer", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("payload", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("revision", BigInteger, nullable=False, index=True),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("uses", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("revoked", Boolean, nullable=False),
    Column("tags", Text, nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("identity", Text, nullable=False, unique=True),
    Column("address4", BigInteger, nullable=False, unique=True),
    Column("token", Text, nullable=False),
    Column("joined", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False, index=True),
    Column("revoked", Boolean, nullable=False),
)

names = Table(
    "names",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("owner", Text, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("network", Text, primary_key=True),
    Column("prefix", Text, primary_key=True),
    Column("node", Text, nullable=False, index=True),
    Column("not_after", BigInteger, nullable=False),
)
