"""Pure. The dialogue of an administrator with the coordinator, over its unix socket.

HTTP as in `wire.api`, with the same errors; who may open the socket is known by the kernel, so
nothing is signed.

    POST   /v1/tokens    TokenRequest        → TokenMade: the token's text, this once
    GET    /v1/tokens                        → list of TokenInfo
    DELETE /v1/tokens/ID                     → Done
    GET    /v1/nodes                         → list of NodeInfo
    DELETE /v1/nodes/NAME                    → Done: the node is revoked
    GET    /v1/networks                      → list of NetworkInfo
    POST   /v1/networks  api.NetworkRequest  → NetworkInfo
    DELETE /v1/networks/NAME                 → Done
    GET    /v1/records                       → list of StaticRecord
    POST   /v1/records   StaticRecord        → Done: it stands in place of one of that name and type
    DELETE /v1/records/NAME/TYPE             → Done
    GET    /v1/status                        → Status
    GET    /metrics
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import msgspec

from meshnet.model.addresses import Prefix
from meshnet.model.keys import IdentityKey

TOKENS = "/v1/tokens"
NODES = "/v1/nodes"
NETWORKS = "/v1/networks"
RECORDS = "/v1/records"
STATUS = "/v1/status"
METRICS = "/metrics"


class TokenRequest(msgspec.Struct, frozen=True):
    """Please make a token, good for `uses` joins within `ttl` seconds."""

    ttl: int = 3600
    uses: int = 1
    tags: tuple[str, ...] = ()


class TokenMade(msgspec.Struct, frozen=True):
    """A new token. Its text is not kept."""

    id: str
    text: str
    expires: int

    def __repr__(self) -> str:
        return f"TokenMade(id={self.id!r}, text=hidden)"


class TokenInfo(msgspec.Struct, frozen=True):
    """A token without its secret. `state` is valid, expired, revoked or used up."""

    id: str
    state: str
    created: int
    expires: int
    uses: int
    used: int
    tags: tuple[str, ...] = ()


class NodeInfo(msgspec.Struct, frozen=True):
    """A node as the coordinator knows it. `state` is watching, silent, expired, revoked
    or left."""

    id: str
    name: str
    state: str
    address4: IPv4Address
    address6: IPv6Address
    joined: int
    not_after: int
    token: str = ""
    tags: tuple[str, ...] = ()
    version: str = ""


class NetworkInfo(msgspec.Struct, frozen=True):
    """A network; how many leases are given, and how many attachments there are."""

    name: str
    vni: int
    prefixes: tuple[Prefix, ...]
    flood: bool = False
    leases: int = 0
    attachments: int = 0


class Done(msgspec.Struct, frozen=True):
    """It is done and durable."""

    revision: int = 0


class Status(msgspec.Struct, frozen=True):
    """How the coordinator is."""

    version: str
    store: str
    revision: int
    urls: tuple[str, ...]
    pin: str
    root: IdentityKey
    started: int
    nodes: int
    watching: int
    networks: int
    facts: int
    issuer_not_after: int
