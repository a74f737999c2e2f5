"""Pure. The dialogue between a node and a coordinator: every request, every answer, every error.

HTTP/1.1 over TLS, JSON bodies, versioned paths. The node knows the SHA-256 of the coordinator's
TLS key (the *pin*, from its token) and hangs up before it says anything to a server with another.

    node                                              coordinator
    GET /v1/hello                                →
                                                 ←   Hello: a challenge good for a minute, and an
                                                     X25519 key made for this challenge alone
    POST /v1/join {token secret, name, keys,     →
         signature by the identity key and MAC
         by the WireGuard key over challenge,
         pin and all that is asked for}          ←   Joined: membership, issuer, mesh, coordinators,
                                                     networks: all as signed facts

From here on every request is signed by the node's identity key (see `auth`): method, path, body,
time, nonce and the pin, so that it is good once, for this coordinator, for a minute.

    POST /v1/renew {challenge, key proofs,       →
         leases to keep}                         ←   Granted: new membership and leases
    POST /v1/leases {network, family | address}  →
                                                 ←   Granted: the lease
    POST /v1/publish {facts}                     →       on disk before the answer is sent
                                                 ←   Published: revision, facts refused and why
    POST /v1/networks {name, prefixes, flood,    →
         transient}                              ←   Granted: the network
    POST /v1/networks/NAME/leave                 →   the node has no use for it any more
                                                 ←   Granted: its leases deleted, and a transient
                                                     network with the last leases
    DELETE /v1/networks/NAME                     →
                                                 ←   Granted: the deletion
    POST /v1/leave                               →   for good: see `coordinator.members`
                                                 ←   Granted: the deletions
    GET /v1/watch?revision=N&store=ID            →
                                                 ←   a stream of lines (`Line`), one JSON object
                                                     each, without end

The first line of a watch says which store it speaks of and brings the node from revision N to the
present; when N is unknown there (another store, a gap) it is the first of a snapshot. After it come
deltas as they happen, a beat when nothing does, and hints that a node may be gone. `forgotten` are
nodes gone for good: all their records have left the coordinator's set before the facts of the line
came in. `digest` is that of the whole set after the line; a node that computes another one asks
again without a revision and so gets a snapshot. `seen`, after the first lines, is the address the
node's connection comes from.

An error is an HTTP status and a body {"code", "message", "hint", "time"}; `ERRORS` maps codes both
ways. Two codes are answered by trying once more: after `clock` the node signs by the coordinator's
`time`, after `challenge` (too old, or of a process that has ended) it says hello again. Readers
ignore fields they do not know; a path with another version is another dialogue.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from meshnet.errors import (
    BadInput,
    Conflict,
    MeshnetError,
    NotAuthentic,
    NotFound,
    RateLimited,
    Refused,
    TokenExpired,
    TokenRevoked,
    TokenUnknown,
    TokenUsedUp,
    Unavailable,
)
from meshnet.model.addresses import Address, Prefix
from meshnet.model.keys import IdentityKey, PublicKey
from meshnet.wire.fact import SignedFact

VERSION = 1
HELLO = "/v1/hello"
JOIN = "/v1/join"
RENEW = "/v1/renew"
LEASES = "/v1/leases"
PUBLISH = "/v1/publish"
LEAVE = "/v1/leave"
NETWORKS = "/v1/networks"
WATCH = "/v1/watch"
HEALTH = "/healthz"
METRICS = "/metrics"

BODY_LIMIT = 1024 * 1024
FACTS_LIMIT = 256
LINE_LIMIT = 32 * 1024 * 1024
BEAT_SECONDS = 10


class Hello(msgspec.Struct, frozen=True):
    """Who answers, and what to prove keys against."""

    version: int
    software: str
    challenge: bytes
    ephemeral: PublicKey
    time: int


class JoinRequest(msgspec.Struct, frozen=True):
    """Please let me in: `signature` and `mac` are over `auth.join_transcript`."""

    secret: bytes
    name: str
    identity: IdentityKey
    wireguard: PublicKey
    challenge: bytes
    signature: bytes
    mac: bytes

    def __repr__(self) -> str:
        return f"JoinRequest(name={self.name!r}, identity={self.identity}, secret=hidden)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("name", self.name), ("identity", self.identity)]


class Joined(msgspec.Struct, frozen=True):
    """Welcome: the statements a node needs to work, among them its own membership."""

    store: str
    revision: int
    facts: tuple[SignedFact, ...]


class KeyProof(msgspec.Struct, frozen=True):
    """A WireGuard key and the proof of holding it: a MAC over `auth.key_transcript`."""

    key: PublicKey
    mac: bytes


class HeldLease(msgspec.Struct, frozen=True):
    """The name of a lease."""

    network: str
    prefix: Prefix


class RenewRequest(msgspec.Struct, frozen=True):
    """Please certify me anew with `keys` (empty: those certified already) and keep `leases`."""

    challenge: bytes = b""
    keys: tuple[KeyProof, ...] = ()
    leases: tuple[HeldLease, ...] = ()


class LeaseRequest(msgspec.Struct, frozen=True):
    """Please give me a block of `network`, or the one `address`.

    `known` are the blocks of that network and family the node knows it has: one that it holds and
    does not name, because the answer was lost, is answered again instead of a new one.
    """

    network: str
    family: Literal[4, 6] = 4
    address: Address | None = None
    known: tuple[Prefix, ...] = ()


class PublishRequest(msgspec.Struct, frozen=True):
    """Facts of the asking node, at most FACTS_LIMIT."""

    facts: tuple[SignedFact, ...]


class NetworkRequest(msgspec.Struct, frozen=True):
    """Please make a network; a family without a prefix gets a free one."""

    name: str
    prefixes: tuple[Prefix, ...] = ()
    flood: bool = False
    transient: bool = False


class Granted(msgspec.Struct, frozen=True):
    """What was asked for, as signed facts; durable."""

    revision: int
    facts: tuple[SignedFact, ...]


class RefusedFact(msgspec.Struct, frozen=True):
    """A fact of the request that was not taken, and why."""

    kind: str
    key: str
    reason: str


class Published(msgspec.Struct, frozen=True):
    """All facts of the request are durable, save those refused; older ones than known: ignored."""

    revision: int
    refused: tuple[RefusedFact, ...] = ()


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a watch. A snapshot may span lines: all but its last say `more`."""

    store: str = ""
    snapshot: bool = False
    more: bool = False
    revision: int | None = None
    digest: str = ""
    facts: tuple[SignedFact, ...] = ()
    suspect: str = ""
    beat: int = 0
    forgotten: tuple[IdentityKey, ...] = ()
    seen: str = ""


class Problem(msgspec.Struct, frozen=True):
    """The body of an error. `time` is the coordinator's clock."""

    code: str
    message: str
    hint: str = ""
    time: int = 0


class ErrorForm(NamedTuple):
    """How one class of error looks on the wire."""

    code: str
    status: int
    kind: type[MeshnetError]


# More special classes first: the first that fits an error names it.
ERRORS = (
    ErrorForm("token-unknown", 403, TokenUnknown),
    ErrorForm("token-expired", 403, TokenExpired),
    ErrorForm("token-revoked", 403, TokenRevoked),
    ErrorForm("token-used-up", 403, TokenUsedUp),
    ErrorForm("rate-limited", 429, RateLimited),
    ErrorForm("bad-input", 400, BadInput),
    ErrorForm("not-found", 404, NotFound),
    ErrorForm("conflict", 409, Conflict),
    ErrorForm("not-authentic", 401, NotAuthentic),
    ErrorForm("refused", 403, Refused),
    ErrorForm("unavailable", 503, Unavailable),
)
CLOCK = "clock"
CHALLENGE = "challenge"
TOO_LARGE = "too-large"
_BY_CODE: dict[str, type[MeshnetError]] = {
    **{form.code: form.kind for form in ERRORS},
    CLOCK: NotAuthentic,
    CHALLENGE: NotAuthentic,
    TOO_LARGE: BadInput,
}


def form_of(error: MeshnetError) -> tuple[str, int]:
    """Return the code and HTTP status of an error; what has no form is the server's fault."""
    for form in ERRORS:
        if isinstance(error, form.kind):
            return form.code, form.status
    return "internal", 500


def error_from(problem: Problem, status: int) -> MeshnetError:
    """Return the error that an answer stands for."""
    other: type[MeshnetError] = Unavailable if status >= 500 else Refused
    return _BY_CODE.get(problem.code, other)(problem.message, problem.hint)
