"""Pure. CNI 1.1.0: what a runtime gives to a plugin, and what it gets back.

    CNI_COMMAND  needs                                    answer
    ADD          CONTAINERID NETNS IFNAME                 a result: interfaces, ips, routes, dns
    DEL          CONTAINERID IFNAME                       nothing; the same when all is gone
    CHECK        CONTAINERID NETNS IFNAME, prevResult     nothing, or the error
    GC           cni.dev/valid-attachments                nothing; the others are taken away
    STATUS                                                nothing, or error 50 or 51
    VERSION                                               the versions we speak

An attachment belongs to (name of the configuration, container, interface): its *owner* is these
three in one text. Alone, the plugin makes the interface CNI_IFNAME. Behind a plugin that has made
it, ours is a second one, `mesh0` unless the configuration says otherwise, and the result is the
earlier one with ours added.

`meshnet-cni` hands a call over as it got it, so that it need not understand what it carries:

    POST /v1/cni    the CNI_ variables, KEY=VALUE and NUL each, one NUL more, standard input
    200             what the plugin is to print, exit status 0
    400             the same, exit status 1

Source: https://github.com/containernetworking/cni/blob/main/SPEC.md and CONVENTIONS.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any, TypeVar

import msgspec

from meshnet import errors
from meshnet.errors import BadInput, MeshnetError
from meshnet.model.names import DEFAULT_NETWORK, ZONE, label_from
from meshnet.wire.local import BODY_LIMIT, Attached, AttachRequest, PortSpec
from meshnet.wire.port import port

T = TypeVar("T")

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
NEEDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
}
COMMANDS = (*NEEDS, "GC", "STATUS", "VERSION")

VERSION_UNKNOWN, FIELD_UNSUPPORTED, CONTAINER_UNKNOWN, BAD_ENVIRONMENT, IO_FAILED = 1, 2, 3, 4, 5
NOT_JSON, BAD_CONFIG, TRY_LATER, UNAVAILABLE, LIMITED = 6, 7, 11, 50, 51
OWN, UNEXPECTED = 100, 199
"""Codes of ours: OWN + the exit code of the error in `meshnet.errors`."""

PATH = "/v1/cni"
SIZE_LIMIT = BODY_LIMIT // 2
"""Longest configuration in bytes."""

SERVICE_LABEL, PORT_LABEL = "mesh.service", "mesh.port"
ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
"""The capability by which containerd tells the annotations of a pod."""
BEHIND = "mesh0"
SHORT_ID = 12

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,252}")
_INTERFACE = re.compile(r"[^/:\s]{1,15}")


class CniError(Exception):
    """An error as the specification has it."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


class Label(msgspec.Struct, frozen=True):
    """A label of a container, by CONVENTIONS.md."""

    key: str
    value: str = ""


class Labels(msgspec.Struct, frozen=True):
    """What a runtime tells of a container in `args.cni`."""

    labels: tuple[Label, ...] = ()
    ips: tuple[str, ...] = ()


class Args(msgspec.Struct, frozen=True):
    """The `args` of a configuration."""

    cni: Labels = Labels()


class RuntimeConfig(msgspec.Struct, frozen=True, rename="camel"):
    """What a runtime asks of the capabilities it was told of."""

    ips: tuple[str, ...] = ()
    mac: str = ""
    aliases: dict[str, tuple[str, ...]] = {}
    port_mappings: tuple[Any, ...] = ()
    annotations: dict[str, str] = msgspec.field(name=ANNOTATIONS, default={})


class ValidAttachment(msgspec.Struct, frozen=True):
    """An attachment that still counts, told to GC."""

    container: str = msgspec.field(name="containerID")
    interface: str = msgspec.field(name="ifname")


class Result(msgspec.Struct, frozen=True, omit_defaults=False):
    """A result of ADD; what earlier plugins wrote into it is passed on as it is."""

    interfaces: list[dict[str, Any]] = []
    ips: list[dict[str, Any]] = []
    routes: list[dict[str, Any]] = []
    dns: dict[str, Any] = {}


class Config(msgspec.Struct, frozen=True, rename="camel"):
    """A network configuration. From `network` to `run_dir` the keys are ours, all optional."""

    cni_version: str = "0.1.0"
    name: str = ""
    network: str = DEFAULT_NETWORK
    service: str = ""
    ports: tuple[str, ...] = ()
    interface: str = ""
    run_dir: str = "/run/meshnet"
    dns: dict[str, Any] = {}
    args: Args | None = None
    runtime_config: RuntimeConfig | None = None
    prev_result: Result | None = None
    valid: tuple[ValidAttachment, ...] | None = msgspec.field(
        name="cni.dev/valid-attachments", default=None
    )


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the plugin, checked."""

    command: str
    config: Config
    container: str = ""
    netns: str = ""
    ifname: str = ""
    args: Mapping[str, str] | None = None

    @property
    def owner(self) -> str:
        return owner(self.config.name, self.container, self.ifname)

    @property
    def interface(self) -> str:
        """The name of our interface in the container."""
        if self.config.interface:
            return self.config.interface
        earlier = self.config.prev_result.interfaces if self.config.prev_result else []
        taken = any(i.get("name") == self.ifname and i.get("sandbox") for i in earlier)
        return BEHIND if taken and self.command == "ADD" else self.ifname


def owner(name: str, container: str, ifname: str) -> str:
    """Return the owner of an attachment; none of the three parts can hold the separator."""
    return f"cni/{name}/{container}/{ifname}"


def unpack(body: bytes) -> tuple[dict[str, str], bytes]:
    """Return environment and standard input of a call as it travels."""
    head, _, data = body.partition(b"\0\0") if not body.startswith(b"\0") else (b"", b"", body[1:])
    pairs = (one.decode(errors="surrogateescape").partition("=") for one in head.split(b"\0"))
    return {key: value for key, _, value in pairs if key}, data


def read_call(environment: Mapping[str, str], data: bytes) -> Call:
    """Check a call; raise CniError, with the code the specification has for what is wrong."""
    command = environment.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise CniError(BAD_ENVIRONMENT, f"CNI_COMMAND {command[:40]!r} is none of {COMMANDS}")
    if command == "VERSION":
        return Call(command, Config(_version_asked(data)))
    if len(data) > SIZE_LIMIT:
        raise CniError(BAD_CONFIG, f"the network configuration is longer than {SIZE_LIMIT} bytes")
    config = _decode(data, Config)
    _check_version(command, config.cni_version)
    if command == "GC" and config.valid is None:
        raise CniError(BAD_CONFIG, "GC needs cni.dev/valid-attachments")
    if command == "CHECK" and config.prev_result is None:
        raise CniError(BAD_CONFIG, "CHECK needs prevResult")
    values = {key: environment.get(key, "") for key in NEEDS["ADD"]}
    for key in NEEDS.get(command, ()):
        _check_variable(key, values[key])
    if not config.run_dir.startswith("/") or not config.run_dir.isprintable():
        raise CniError(BAD_CONFIG, f"runDir {config.run_dir[:80]!r} is not an absolute path")
    if command != "STATUS" and not _NAME.fullmatch(config.name):
        raise CniError(BAD_CONFIG, f"name {config.name[:80]!r} cannot name a network configuration")
    args = _read_args(environment.get("CNI_ARGS", "")) if command == "ADD" else {}
    container, netns, ifname = values.values()
    return Call(command, config, container, netns, ifname, args)


def versions(call: Call) -> dict[str, Any]:
    """Return the answer to VERSION."""
    return {"cniVersion": call.config.cni_version, "supportedVersions": list(VERSIONS)}


def _version_asked(data: bytes) -> str:
    """Return the version a VERSION call was written in; any input is fine, even none."""
    try:
        asked = msgspec.json.decode(data, type=dict[str, Any]).get("cniVersion")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        asked = None
    return asked if asked in VERSIONS else VERSIONS[-1]


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.convert(_without_null(msgspec.json.decode(data)), type=kind)
    except msgspec.ValidationError as error:
        raise CniError(BAD_CONFIG, f"the network configuration is not valid: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CniError(NOT_JSON, f"the network configuration is no JSON: {error}") from error


def _without_null(value: Any) -> Any:
    """Return a value less the keys that say nothing: runtimes write null where Go has nil."""
    if isinstance(value, dict):
        return {key: _without_null(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_null(one) for one in value]
    return value


def _check_version(command: str, version: str) -> None:
    if version not in VERSIONS:
        known = ", ".join(VERSIONS)
        raise CniError(VERSION_UNKNOWN, f"cniVersion {version[:40]!r} is none of {known}")
    since = SINCE.get(command, VERSIONS[0])
    if VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(VERSION_UNKNOWN, f"{command} came with CNI {since}, this is {version}")


def _check_variable(key: str, value: str) -> None:
    patterns = {"CNI_CONTAINERID": _NAME, "CNI_IFNAME": _INTERFACE}
    if not value:
        raise CniError(BAD_ENVIRONMENT, f"{key} is not set")
    fits = patterns[key].fullmatch(value) if key in patterns else len(value) < 4096
    if not fits or not value.isprintable() or value in (".", ".."):
        raise CniError(BAD_ENVIRONMENT, f"{key} {value[:80]!r} is not valid")


def _read_args(text: str) -> dict[str, str]:
    """Read CNI_ARGS, `KEY=VALUE;…`."""
    pairs = [pair.partition("=") for pair in text.split(";") if pair]
    if any(not equals or not key for key, equals, _ in pairs):
        raise CniError(BAD_ENVIRONMENT, f"CNI_ARGS {text[:80]!r} is not KEY=VALUE;…")
    return {key: value for key, _, value in pairs}


def attach_request(call: Call) -> AttachRequest:
    """Return what an ADD asks of the agent."""
    config, runtime = call.config, call.config.runtime_config or RuntimeConfig()
    if runtime.port_mappings:
        raise CniError(
            FIELD_UNSUPPORTED,
            "runtimeConfig.portMappings is not ours",
            "Leave the capability to the portmap plugin: put it behind meshnet-cni.",
        )
    said = call.args or {}
    if runtime.mac or said.get("MAC"):
        raise CniError(
            FIELD_UNSUPPORTED,
            "a MAC cannot be chosen: it follows from the address",
            "Fix the address instead.",
        )
    told = config.args.cni if config.args else Labels()
    labels = {**runtime.annotations, **{label.key: label.value for label in told.labels}}
    pod = label_from(said.get("K8S_POD_NAME", ""))
    fixed = tuple(text for text in said.get("IP", "").split(",") if text)
    basis = pod or label_from(f"c-{call.container[:SHORT_ID].replace('.', '-')}")
    service = labels.get(SERVICE_LABEL) or config.service
    aliases = runtime.aliases.get(config.name, ())
    return AttachRequest(
        netns=call.netns,
        network=config.network,
        addresses=tuple(text.partition("/")[0] for text in runtime.ips or told.ips or fixed),
        interface=call.interface,
        service=service,
        ports=_ports(labels.get(PORT_LABEL, "").split(",") if PORT_LABEL in labels else config),
        aliases=_aliases(aliases, call.container, {basis, service}),
        basis=basis,
        owner=call.owner,
    )


def _ports(said: list[str] | Config) -> tuple[PortSpec, ...]:
    texts = said.ports if isinstance(said, Config) else said
    try:
        return tuple(port(text.strip()) for text in texts if text.strip())
    except BadInput as error:
        raise CniError(BAD_CONFIG, error.message, error.hint) from error


def _aliases(said: tuple[str, ...], container: str, known: set[str]) -> tuple[str, ...]:
    """Return the aliases that are names of their own: podman adds the container's short id."""
    new = [alias for alias in said if alias not in known and alias != container[:SHORT_ID]]
    return tuple(dict.fromkeys(new))


def result(call: Call, given: Attached) -> dict[str, Any]:
    """Return the result of an ADD, in the version it was asked in."""
    config, earlier = call.config, call.config.prev_result or Result()
    old = VERSIONS.index(config.cni_version) < VERSIONS.index("1.0.0")
    interface: dict[str, Any] = {"name": given.interface, "mac": given.mac, "sandbox": call.netns}
    if config.cni_version == "1.1.0":
        interface["mtu"] = given.mtu
    ips = [
        {"address": address, "interface": len(earlier.interfaces)}
        | ({"version": str(ip_interface(address).version)} if old else {})
        for address in given.addresses
    ]
    return {
        "cniVersion": config.cni_version,
        "interfaces": [*earlier.interfaces, interface],
        "ips": [*earlier.ips, *ips],
        "routes": earlier.routes,
        "dns": earlier.dns or config.dns or _dns(given),
    }


def _dns(given: Attached) -> dict[str, Any]:
    own = [] if given.network == DEFAULT_NETWORK else [f"{given.network}.{ZONE}"]
    return {"nameservers": list(given.dns), "search": [*own, ZONE]}


def check_previous(call: Call, given: Attached) -> None:
    """Raise CniError when the result a runtime kept does not hold our attachment."""
    earlier = call.config.prev_result or Result()
    kept = {str(ip.get("address")) for ip in earlier.ips}
    lost = [address for address in given.addresses if address not in kept]
    if lost:
        raise CniError(OWN, f"prevResult does not hold {', '.join(lost)}, which is attached")


def unlisted(call: Call, owners: list[str]) -> list[str]:
    """Return the owners of this configuration whose attachments GC is to take away."""
    name = call.config.name
    valid = {owner(name, item.container, item.interface) for item in call.config.valid or ()}
    return [one for one in owners if one.startswith(f"cni/{name}/") and one not in valid]


_CODES: dict[type[MeshnetError], int] = {
    errors.BadInput: BAD_CONFIG,
    errors.NotFound: BAD_CONFIG,
    errors.Unavailable: TRY_LATER,
}


def reply(value: dict[str, Any] | None) -> bytes:
    """Return what a plugin prints for an answer, which may be nothing."""
    return b"" if value is None else msgspec.json.encode(value) + b"\n"


def failure(error: Exception, command: str, version: str) -> bytes:
    """Return what a plugin prints for an error: the specification knows no other form."""
    if isinstance(error, MeshnetError):
        error = _from_error(error, command)
    elif not isinstance(error, CniError):
        error = CniError(UNEXPECTED, f"a mistake in meshnet: {error!r}")
    return reply(
        {
            "cniVersion": version,
            "code": error.code,
            "msg": error.message,
            "details": error.details,
        }
    )


def _from_error(error: MeshnetError, command: str) -> CniError:
    code = next((_CODES[kind] for kind in type(error).mro() if kind in _CODES), None)
    if command == "STATUS":
        code = UNAVAILABLE
    return CniError(OWN + error.exit_code if code is None else code, error.message, error.hint)
