"""Shell. Joining: keys are made here, the token is redeemed, and what comes back is written down.

Joining twice is safe: keys that exist are kept, and a coordinator that has seen them with this
token answers as it did before.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path

from meshnet.agent.book import Book
from meshnet.agent.joiner import join
from meshnet.agent.storage import Settings, StateDir
from meshnet.errors import BadInput, Conflict, NotAuthentic
from meshnet.model.names import check_name, label_from
from meshnet.model.statements import Membership
from meshnet.wire.token import Token, read_token


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What joining gave."""

    node: str
    name: str
    addresses: tuple[str, ...]
    coordinators: tuple[str, ...]


def enrol(
    state_dir: Path,
    token_text: str,
    *,
    name: str = "",
    listen_port: int = 51820,
    host_networks: tuple[str, ...] = ("default",),
) -> Enrolment:
    """Join the mesh a token names; raise a TokenError, PinMismatch, Conflict, …, as it went."""
    token = read_token(token_text)
    chosen = name or label_from(socket.gethostname())
    if not chosen:
        raise BadInput("the host name makes no node name", "Give one: meshnet join --name NAME.")
    check_name(chosen, "node")
    state = StateDir(state_dir)
    _check_same_mesh(state, token)
    state.create()
    membership = _join(state, token, chosen)
    state.save_settings(
        Settings(
            root=token.root,
            name=membership.name,
            urls=token.urls,
            pins=token.pins,
            listen_port=listen_port,
            host_networks=host_networks,
        )
    )
    return Enrolment(
        node=membership.node,
        name=membership.name,
        addresses=(str(membership.address4), str(membership.address6)),
        coordinators=token.urls,
    )


def _check_same_mesh(state: StateDir, token: Token) -> None:
    if state.joined and state.settings().root != token.root:
        raise Conflict(
            "this machine is a node of another mesh",
            "Leave that one first: meshnet down --purge.",
        )


def _join(state: StateDir, token: Token, name: str) -> Membership:
    identity, wireguard = state.make_keys()
    joined = join(token, name, identity, wireguard)
    book = Book(token.root, identity, state.journal(), time.time)
    book.load()
    book.take(joined.facts, "the coordinator")
    me = book.view.statements.memberships.get(identity.public.node_id)
    if me is None:
        raise NotAuthentic(
            "the coordinator's answer holds no valid membership of this node",
            "Check this machine's clock, and that the token is from the mesh you mean.",
        )
    return me
