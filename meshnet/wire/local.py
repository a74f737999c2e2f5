"""Pure. The agent's local API: HTTP/1.1 with JSON bodies on the unix socket RUN_DIR/agent.sock.

Only root and the socket's group may connect. Every body is one of the Structs below; unknown
fields are ignored, so an older command line reads a newer agent.

    method  path                                body                reply
    GET     /v1/status                          –                   Status
    GET     /v1/nodes                           –                   list[NodeInfo]
    GET     /v1/networks                        –                   list[NetworkInfo]
    GET     /v1/services                        –                   list[ServiceInfo]
    GET     /v1/peers                           –                   list[PeerInfo]
    GET     /v1/attachments                     –                   list[AttachmentInfo]
    GET     /v1/plan                            –                   Plan       (nothing is applied)
    GET     /v1/dns?name=NAME&type=TYPE         –                   DnsAnswer
    GET     /v1/doctor?a=NAME&b=NAME            –                   Diagnosis  (a, b: or neither)
    POST    /v1/attach                          AttachRequest       Attached
    POST    /v1/detach                          DetachRequest       Done
    POST    /v1/cni                             (see wire.cni)
    POST    /v1/netavark                        (see wire.netavark)
    POST    /v1/reserve                         ReserveRequest      Reserved
    POST    /v1/release                         ReleaseRequest      Done
    POST    /v1/hold                            HoldRequest         Done
    POST    /v1/services                        ServiceRequest      Done
    DELETE  /v1/services/NETWORK/SERVICE?attachment=NAME    –       Done
    POST    /v1/networks                        NetworkRequest      NetworkInfo  (by a coordinator)
    DELETE  /v1/networks/NAME                   –                   Done         (by a coordinator)
    POST    /v1/networks/NAME/leave             –                   Done         (by a coordinator)
    POST    /v1/key/rotate                      KeyRotateRequest    KeyRotated   (by a coordinator)
    POST    /v1/reconcile                       –                   Reconciled
    POST    /v1/down                            DownRequest         Done
    GET     /metrics                            –                   Prometheus text format

A reply that is no success has a status from `http_status` and an ErrorReply as its body; `rebuild`
makes the same class of `meshnet.errors` of it again, so the command line fails with the message,
the hint and the exit code of the place where it went wrong.

Addresses, prefixes, keys and endpoints travel as text and are parsed by the agent: reading a
status then needs no cryptographic library, which keeps the command line quick to start. Times are
seconds since the epoch, 0 meaning never; ages are left to the reader, who gets `now` beside them.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from meshnet import errors
from meshnet.errors import BadInput, MeshnetError

T = TypeVar("T")

SOCKET = "agent.sock"
"""Name of the socket in the run directory."""

BODY_LIMIT = 1 << 20
"""Longest request body in bytes."""


class CoordinatorState(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's stream from a coordinator. `since`: when `connected` last changed."""

    connected: bool
    url: str = ""
    since: int = 0
    last_error: str = ""


HostDnsMode = Literal["auto", "file", "off"]
"""How the host itself asks for the mesh's names: by systemd-resolved where it runs, by
/etc/resolv.conf, or not."""


class HostDnsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Choose how the host asks for the mesh's names."""

    mode: HostDnsMode


class DnsState(msgspec.Struct, frozen=True, kw_only=True):
    """The node's DNS server. `host` says what the host itself asks it by, '' when nothing."""

    running: bool
    zone: str = "mesh"
    addresses: tuple[str, ...] = ()
    names: int = 0
    forwarding: bool = False
    host: str = ""
    last_error: str = ""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what there is in the view; `reachable` of the `peers`."""

    nodes: int = 0
    networks: int = 0
    services: int = 0
    instances: int = 0
    attachments: int = 0
    peers: int = 0
    reachable: int = 0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The agent on one page. `repairs`: drift put right since the start, by kind of operation.

    `backend` is `kernel` or `wireguard-go VERSION`. `membership_not_after` is when the node's
    certificate ends unless renewed. `refused`: facts that are signed but do not hold.
    `warnings` are sentences for a person, the gravest first; none when all is well.
    `next_public_key` is the WireGuard key that is to follow `public_key`, '' when none is.
    """

    version: str
    node: str
    name: str
    addresses: tuple[str, ...]
    interface: str
    backend: str
    public_key: str
    listen_port: int
    behind_nat: bool = False
    mtu: int
    coordinator: CoordinatorState
    dns: DnsState
    counts: Counts
    revision: int
    digest: str
    membership_not_after: int
    started: int
    now: int
    last_reconcile: int = 0
    repairs: dict[str, int] = {}
    refused: int = 0
    warnings: tuple[str, ...] = ()
    next_public_key: str = ""


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A member. `own`: it is this node; `reachable` is always true for it."""

    id: str
    name: str
    addresses: tuple[str, ...]
    not_after: int
    reachable: bool
    own: bool = False
    tags: tuple[str, ...] = ()
    endpoint: str = ""
    version: str = ""
    attachments: int = 0
    instances: int = 0


class NetworkInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A network. `here` counts the attachments on this node, `leases` are those of this node."""

    name: str
    vni: int
    prefixes: tuple[str, ...]
    gateways: tuple[str, ...] = ()
    flood: bool = False
    mtu: int = 0
    attachments: int = 0
    here: int = 0
    leases: tuple[str, ...] = ()


class PortSpec(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A port of a service. `name` is the service type for SRV, such as `http`."""

    number: int
    protocol: Literal["tcp", "udp"] = "tcp"
    name: str = ""


class InstanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One instance. `why_not` says why DNS leaves it out; it is empty exactly when `answered`."""

    node: str
    attachment: str
    addresses: tuple[str, ...]
    ports: tuple[PortSpec, ...] = ()
    healthy: bool = True
    answered: bool = True
    why_not: str = ""
    weight: int = 1
    metadata: dict[str, str] = {}


class ServiceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A service of a network and its instances. `dns` is the name it is found by."""

    service: str
    network: str
    dns: str
    instances: tuple[InstanceInfo, ...]


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A peer as this node's WireGuard device has it and as the probes see it.

    `endpoint` is the one in use, `candidates` are `ENDPOINT PROVENANCE`. `last_handshake` is a
    time. `rtt` is in milliseconds, 0 when not measured. `mtu`: the largest packet that
    fits into the tunnel to it, in bytes. `next_public_key` is what it has announced.
    """

    node: str
    name: str
    public_key: str
    endpoint: str
    reachable: bool
    last_handshake: float = 0.0
    received: int = 0
    sent: int = 0
    rtt: float = 0.0
    mtu: int = 0
    keepalive: int = 0
    allowed_ips: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    next_public_key: str = ""


class AttachmentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An attachment of this node. `host`: it is the node's own, in the host's namespace."""

    network: str
    name: str
    interface: str
    addresses: tuple[str, ...]
    mac: str
    netns: str = ""
    host: bool = False
    services: tuple[str, ...] = ()
    owner: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a reconciliation would do now: each operation in its own words, in order."""

    operations: tuple[str, ...]
    revision: int = 0


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """What a reconciliation did. `failed` are operations the kernel refused, with its reason."""

    operations: tuple[str, ...]
    failed: tuple[str, ...] = ()
    milliseconds: float = 0.0


class DnsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One resource record; `data` in presentation form."""

    name: str
    type: str
    ttl: int
    data: str


class DnsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the node's DNS server answers. `rcode` is NOERROR, NXDOMAIN, REFUSED, …"""

    name: str
    type: str
    rcode: str
    answers: tuple[DnsRecord, ...] = ()
    authority: tuple[DnsRecord, ...] = ()
    server: str = ""
    milliseconds: float = 0.0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one check. `note`: worth knowing, but not what is wrong; `skipped`: not judged.

    `first` marks the first finding that is wrong: what to mend before all else, as `do` says.
    """

    check: str
    state: Literal["ok", "wrong", "note", "skipped"]
    text: str
    do: str = ""
    first: bool = False


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What a doctor found. `subject` is what was looked at, `at` the node that looked."""

    subject: str
    at: str
    findings: tuple[Finding, ...]
    agent: bool = True


class AttachRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Attach one namespace: exactly one of `netns` (a path), `pid` and `host` is given.

    Left empty, `name` is made up, `addresses` come from the node's lease and `interface` is the
    next free name. With `service`, the attachment becomes an instance of it on `ports`, with
    `aliases` of further services without ports, as far as these can be names. `basis` is what a
    made-up name is made from. `owner` is the key under which whoever attaches finds the attachment
    again; it is used once. Instances that are not `healthy` are not answered.
    `handed` in place of a namespace: the interface is made in the host's namespace, bare, for an
    engine to take it away and give it its addresses.
    """

    netns: str = ""
    pid: int = 0
    host: bool = False
    handed: bool = False
    network: str = "default"
    name: str = ""
    addresses: tuple[str, ...] = ()
    interface: str = ""
    service: str = ""
    ports: tuple[PortSpec, ...] = ()
    weight: int = 1
    metadata: dict[str, str] = {}
    healthy: bool = True
    aliases: tuple[str, ...] = ()
    basis: str = ""
    owner: str = ""


class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """What an attachment was given. `addresses` carry the prefix length; `names` are in DNS."""

    network: str
    name: str
    interface: str
    addresses: tuple[str, ...]
    mac: str
    mtu: int
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


class DetachRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Take an attachment away, found by its name or by its owner; its instances go first."""

    name: str = ""
    network: str = "default"
    owner: str = ""


class ReserveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Keep an address for an attachment that comes within a minute: a fixed one, or the next."""

    network: str
    family: Literal[4, 6] = 4
    address: str = ""


class Reserved(msgspec.Struct, frozen=True, kw_only=True):
    """An address kept, with the network's prefix length, and the MAC that goes with it."""

    address: str
    mac: str


class ReleaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Keep an address no longer; it is fine when it was not kept."""

    network: str
    address: str


class HoldRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Keep networks ready for their first attachment: all that a holder has, for a minute."""

    holder: str
    networks: tuple[str, ...] = ()


class ServiceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Add or replace one instance. `attachment` empty means the host's own on `network`."""

    service: str
    network: str = "default"
    attachment: str = ""
    ports: tuple[PortSpec, ...] = ()
    weight: int = 1
    metadata: dict[str, str] = {}


class NetworkRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Make a network. A family without a prefix gets one from the mesh's own ranges.

    One that is `transient` ends when no node has a lease of it any more.
    """

    name: str
    prefixes: tuple[str, ...] = ()
    flood: bool = False
    transient: bool = False


class KeyRotateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Change the node's WireGuard key. `force`: also where peers in reach do not know of it yet."""

    force: bool = False


class KeyRotated(msgspec.Struct, frozen=True, kw_only=True):
    """The key was changed. Of the `peers` that were in reach, `waiting` have not shaken hands."""

    public_key: str
    previous: str
    peers: int = 0
    waiting: tuple[str, ...] = ()


class DownRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Stop the agent and take all of ours out of the kernel. `purge`: forget the membership too."""

    purge: bool = False


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """It is done; `message` says what in one sentence."""

    message: str = ""


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True):
    """A MeshnetError on the wire. `errno` is that of KernelRefused."""

    error: str
    message: str
    hint: str = ""
    exit_code: int = 1
    errno: int = 0


_HTTP_STATUS: dict[type[MeshnetError], int] = {
    errors.BadInput: 400,
    errors.Refused: 403,
    errors.NotAuthentic: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.RateLimited: 429,
    errors.Unavailable: 503,
}


def http_status(error: MeshnetError) -> int:
    """Return the HTTP status an error travels with; 500 for what no status fits."""
    return next((_HTTP_STATUS[kind] for kind in type(error).mro() if kind in _HTTP_STATUS), 500)


def error_reply(error: MeshnetError) -> ErrorReply:
    """Return the form of an error that travels."""
    return ErrorReply(
        error=type(error).__name__,
        message=error.message,
        hint=error.hint,
        exit_code=error.exit_code,
        errno=getattr(error, "errno", 0),
    )


def rebuild(reply: ErrorReply) -> MeshnetError:
    """Return the error that `error_reply` was given; an unknown class keeps its exit code."""
    kind = getattr(errors, reply.error, None)
    if kind is errors.KernelRefused:
        return errors.KernelRefused(reply.message, reply.errno, reply.hint)
    if isinstance(kind, type) and issubclass(kind, MeshnetError):
        return kind(reply.message, reply.hint)
    error = MeshnetError(reply.message, reply.hint)
    error.exit_code = reply.exit_code
    return error


_encoder = msgspec.json.Encoder()


def encode(value: object) -> bytes:
    """Return the JSON of a body."""
    return _encoder.encode(value)


def decode(data: bytes, kind: type[T], what: str) -> T:
    """Read a body; raise BadInput naming `what` for anything that does not fit."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{what} is not valid: {error}") from error
