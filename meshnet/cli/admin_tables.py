"""Pure. What the coordinator tells its administrator, as text."""

from __future__ import annotations

from collections.abc import Sequence

from meshnet.cli.text import NOTHING, Table, count, date, span, until, words
from meshnet.coordinator.admin_api import NodeInfo, Status, TokenInfo
from meshnet.model.statements import StaticRecord


def tokens_table(tokens: Sequence[TokenInfo], now: float) -> Table:
    heads = ("ID", "STATE", "USED", "EXPIRES", "CREATED", "TAGS")
    rows = (
        (
            token.id,
            token.state,
            f"{token.used} of {token.uses}",
            until(token.expires, now),
            date(token.created),
            words(token.tags),
        )
        for token in tokens
    )
    return Table(heads, tuple(rows))


def members_table(nodes: Sequence[NodeInfo], now: float) -> Table:
    heads = ("NAME", "ID", "STATE", "ADDRESSES", "JOINED", "EXPIRES", "TOKEN", "VERSION", "TAGS")
    rows = (
        (
            node.name,
            node.id,
            node.state,
            words((node.address4, node.address6)),
            date(node.joined),
            until(node.not_after, now),
            node.token or NOTHING,
            node.version or NOTHING,
            words(node.tags),
        )
        for node in nodes
    )
    return Table(heads, tuple(rows))


def records_table(records: Sequence[StaticRecord]) -> Table:
    rows = ((record.name, record.type, str(record.ttl), words(record.values)) for record in records)
    return Table(("NAME", "TYPE", "TTL", "VALUES"), tuple(rows), frozenset({"TTL"}))


def coordinator_text(status: Status, now: float) -> str:
    """Return the page that `meshnet coordinator status` prints."""
    return "\n".join(
        (
            f"Coordinator: meshnet {status.version}, up {span(now - status.started)}",
            f"URLs: {words(status.urls)}",
            f"TLS pin: {status.pin}",
            f"Root key: {status.root}",
            f"Issuing key: certified until {date(status.issuer_not_after)}"
            f" ({until(status.issuer_not_after, now)})",
            f"Store: {status.store}, revision {status.revision}, {count(status.facts, 'fact')}",
            f"Nodes: {status.nodes}, {status.watching} watching",
            f"Networks: {status.networks}",
        )
    )
