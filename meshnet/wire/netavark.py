"""Pure. podman's netavark and its plugins: what a plugin is given, and what it gives back.

    argument             standard input            standard output
    create               a network                 the same network, completed
    setup NETNS          container, network        what the container got there
    teardown NETNS       the same as to setup      nothing; the same when all is gone
    info                                           the versions we speak

An error is {"error": TEXT} and an exit status other than 0. The plugin does everything: interface,
addresses, routes. So `create` tells podman to give out no addresses of its own (two hosts would
give the same), and what a container is to have fixed comes to us as it was typed.

A network of podman's is one of the mesh: that of its name, or of the option meshnet.network. An
attachment belongs to (podman's network, container, interface).

`meshnet-netavark` hands a call over as it got it:

    POST /v1/netavark    the arguments, NUL after each, one NUL more, standard input
    200                  what the plugin is to print, exit status 0
    400                  the same, exit status 1

Source: github.com/containers/netavark, plugin-API.md; seen with netavark 1.14 and podman 5.4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from meshnet.errors import BadInput, MeshnetError
from meshnet.model.names import DEFAULT_NETWORK, ZONE, label_from
from meshnet.wire.local import Attached, AttachRequest, NetworkInfo

T = TypeVar("T")

PATH = "/v1/netavark"
API_VERSION = "1.0.0"
COMMANDS = ("create", "setup", "teardown", "info")
NETWORK_OPTION = "meshnet.network"
SHORT_ID = 12

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,252}")
_INTERFACE = re.compile(r"[^/:\s]{1,15}")


class Subnet(msgspec.Struct, frozen=True):
    """A prefix of a network."""

    subnet: str


class Network(msgspec.Struct, frozen=True):
    """A network as podman has it, as far as it matters here."""

    name: str
    options: dict[str, str] | None = None
    subnets: tuple[Subnet, ...] | None = None


class Options(msgspec.Struct, frozen=True):
    """What a container asks of a network."""

    interface_name: str
    aliases: tuple[str, ...] | None = None
    static_ips: tuple[str, ...] | None = None
    static_mac: str | None = None


class Container(msgspec.Struct, frozen=True):
    """The standard input of setup and teardown."""

    container_id: str
    network: Network
    network_options: Options
    container_name: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the plugin. `said` is the network of a create, whole."""

    command: str
    netns: str = ""
    said: dict[str, Any] | None = None
    container: Container | None = None


def unpack(body: bytes) -> tuple[list[str], bytes]:
    """Return arguments and standard input of a call as it travels."""
    head, _, data = body.partition(b"\0\0") if not body.startswith(b"\0") else (b"", b"", body[1:])
    words = head.split(b"\0") if head else []
    return [word.decode(errors="surrogateescape") for word in words], data


def read_call(words: Sequence[str], data: bytes) -> Call:
    """Check a call; raise BadInput for what is none."""
    command = words[0] if words else ""
    if command not in COMMANDS:
        raise BadInput(f"{command[:40]!r} is none of {', '.join(COMMANDS)}")
    if command == "info":
        return Call(command)
    if command == "create":
        return Call(command, said=_decode(data, dict[str, Any]))
    if len(words) != 2 or not words[1].startswith("/") or not words[1].isprintable():
        raise BadInput(f"{command} needs the path of a network namespace")
    container = _decode(data, Container)
    checks = {
        container.container_id: _NAME,
        container.network.name: _NAME,
        container.network_options.interface_name: _INTERFACE,
    }
    for text, pattern in checks.items():
        if not pattern.fullmatch(text) or not text.isprintable():
            raise BadInput(f"{text[:80]!r} cannot name a container, a network or an interface")
    return Call(command, words[1], container=container)


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"netavark's request is not valid: {error}") from error


def network_of(call: Call) -> tuple[str, tuple[str, ...]]:
    """Return the network of the mesh that a call is about, and the prefixes it was given."""
    said = call.container.network if call.container else _convert(call.said)
    options = dict(said.options or {})
    name = options.pop(NETWORK_OPTION, "") or label_from(said.name)
    if options and call.command == "create":
        raise BadInput(
            f"option {min(options)[:60]} is not known to meshnet", f"There is {NETWORK_OPTION}."
        )
    return name, tuple(subnet.subnet for subnet in said.subnets or ())


def _convert(said: dict[str, Any] | None) -> Network:
    try:
        return msgspec.convert(said, Network)
    except msgspec.ValidationError as error:
        raise BadInput(f"netavark's request is not valid: {error}") from error


def created(call: Call, network: NetworkInfo) -> dict[str, Any]:
    """Return the network of a create, completed; BadInput when it cannot be what was asked."""
    for asked in network_of(call)[1]:
        if asked not in network.prefixes:
            has = ", ".join(network.prefixes)
            raise BadInput(f"network {network.name} of the mesh has {has}, not {asked[:60]}")
    subnets = [
        {"subnet": prefix, "gateway": gateway}
        for prefix, gateway in zip(network.prefixes, network.gateways, strict=True)
    ]
    return {
        **(call.said or {}),
        "subnets": subnets,
        "ipv6_enabled": any(":" in prefix for prefix in network.prefixes),
        "ipam_options": {"driver": "none"},
    }


def owner(container: Container) -> str:
    """Return the owner of an attachment; none of the three parts can hold the separator."""
    interface = container.network_options.interface_name
    return f"netavark/{container.network.name}/{container.container_id}/{interface}"


def attach_request(call: Call, container: Container) -> AttachRequest:
    """Return what a setup asks of the agent."""
    options = container.network_options
    if options.static_mac:
        raise BadInput(
            "a MAC cannot be chosen: it follows from the address", "Fix the address instead."
        )
    short = container.container_id[:SHORT_ID]
    basis = label_from(container.container_name) or label_from(f"c-{short}")
    aliases = (alias for alias in options.aliases or () if alias not in (short, basis))
    return AttachRequest(
        netns=call.netns,
        network=network_of(call)[0],
        addresses=options.static_ips or (),
        interface=options.interface_name,
        aliases=tuple(dict.fromkeys(aliases)),
        basis=basis,
        owner=owner(container),
    )


def result(given: Attached) -> dict[str, Any]:
    """Return what netavark is told of an attachment."""
    subnets = [{"ipnet": address} for address in given.addresses]
    own = [] if given.network == DEFAULT_NETWORK else [f"{given.network}.{ZONE}"]
    return {
        "dns_search_domains": [*own, ZONE],
        "dns_server_ips": list(given.dns),
        "interfaces": {given.interface: {"mac_address": given.mac, "subnets": subnets}},
    }


def info(version: str) -> dict[str, Any]:
    """Return the answer to info."""
    return {"version": version, "api_version": API_VERSION}


def reply(value: dict[str, Any] | None) -> bytes:
    """Return what a plugin prints for an answer, which may be nothing."""
    return b"" if value is None else msgspec.json.encode(value) + b"\n"


def failure(error: Exception) -> bytes:
    """Return what a plugin prints for an error."""
    if isinstance(error, MeshnetError):
        return reply({"error": error.whole})
    return reply({"error": f"a mistake in meshnet: {error!r}"})
