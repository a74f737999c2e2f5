"""Face. Attach a namespace to a network and take it away again."""

from __future__ import annotations

import os
from pathlib import Path

import click

from meshnet.cli import tables, types
from meshnet.cli.complete import complete_attachment, complete_network
from meshnet.cli.output import json_option, print_json
from meshnet.errors import BadInput
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.wire.local import Attached, AttachRequest, DetachRequest, Done, PortSpec

NETNS_DIR = Path("/run/netns")

network_option = click.option(
    "--network",
    type=types.name_of("network"),
    default="default",
    show_default=True,
    metavar="NETWORK",
    shell_complete=complete_network,
    help="The network.",
)
port_option = click.option(
    "--port",
    "ports",
    type=types.port,
    multiple=True,
    metavar="[NAME:]NUMBER[/tcp|udp]",
    help="A port it listens on; may be repeated. NAME is the type in SRV records.",
)
weight_option = click.option(
    "--weight",
    type=click.IntRange(0, 65535),
    default=1,
    show_default=True,
    help="Its weight in SRV records.",
)
metadata_option = click.option(
    "--metadata",
    type=types.pair,
    multiple=True,
    metavar="KEY=VALUE",
    help="A word about it for TXT records; may be repeated.",
)


@click.command()
@click.option("--netns", metavar="PATH", help="The namespace: a path, or a name in /run/netns.")
@click.option("--pid", type=click.IntRange(1), metavar="PID", help="The namespace of a process.")
@click.option("--host", is_flag=True, help="The host's own namespace.")
@network_option
@click.option("--name", type=types.name_of("attachment"), metavar="NAME", help="Its name.")
@click.option(
    "--ip",
    "addresses",
    type=types.address,
    multiple=True,
    metavar="ADDRESS",
    help="A fixed address, one of each family at most.",
)
@click.option("--interface", metavar="NAME", help="Name of the interface inside.")
@click.option(
    "--service",
    type=types.name_of("service"),
    metavar="SERVICE",
    help="Make it an instance of this service.",
)
@port_option
@weight_option
@metadata_option
@json_option
@click.pass_obj
def attach(
    settings: Settings,
    netns: str | None,
    pid: int | None,
    host: bool,
    network: str,
    name: str | None,
    addresses: tuple[str, ...],
    interface: str | None,
    service: str | None,
    ports: tuple[PortSpec, ...],
    weight: int,
    metadata: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Attach a namespace to a network; print what it was given.

    The namespace gets an interface, addresses from this node's lease, and routes. No coordinator
    is needed at that moment unless an address is asked for. An unnamed usual port gets its usual
    service type: 80/tcp is http.

    \b
      meshnet attach --pid 4711
      meshnet attach --netns c1 --name c1 --service web --port 80/tcp
      meshnet attach --pid 4711 --network appnet --ip 10.20.0.7 --port grpc:9000/tcp --service api
      meshnet attach --host --network appnet
    """
    _check_target(netns, pid, host)
    if (ports or metadata) and not service:
        raise BadInput("--port and --metadata belong to a service", "Add --service NAME.")
    request = AttachRequest(
        netns=_netns_path(netns) if netns else "",
        pid=pid or 0,
        host=host,
        network=network,
        name=name or "",
        addresses=addresses,
        interface=_check_interface(interface) if interface else "",
        service=service or "",
        ports=ports,
        weight=weight,
        metadata=dict(metadata),
    )
    given = Agent(settings).post("/v1/attach", request, Attached)
    if as_json:
        print_json(given)
    else:
        click.echo(tables.attached_text(given))


def _check_target(netns: str | None, pid: int | None, host: bool) -> None:
    if [netns is not None, pid is not None, host].count(True) != 1:
        raise BadInput(
            "attach needs exactly one of --netns, --pid and --host",
            "See `meshnet attach --help` for examples.",
        )


def _netns_path(text: str) -> str:
    """Return the absolute path the agent will open: it has another working directory."""
    path = str(NETNS_DIR / text) if "/" not in text else os.path.abspath(text)  # noqa: PTH100
    if path.startswith(("/proc/self/", "/proc/thread-self/")):
        raise BadInput(
            f"{path} means another namespace to the agent", "Give the number: /proc/PID/ns/net."
        )
    return path


def _check_interface(text: str) -> str:
    """Check the name of a link: what the kernel takes (dev_valid_name)."""
    if not 0 < len(text.encode()) < 16 or text in (".", "..") or set(text) & set("/: \t\n"):
        raise BadInput(
            f"{text[:40]!r} cannot name an interface",
            "Use 1 to 15 letters and digits, such as eth1.",
        )
    return text


@click.command()
@click.argument("name", type=types.name_of("attachment"), shell_complete=complete_attachment)
@network_option
@click.pass_obj
def detach(settings: Settings, name: str, network: str) -> None:
    """Take attachment NAME away from a network. Its service instances go first.

    \b
      meshnet detach c1
      meshnet detach c1 --network appnet
    """
    request = DetachRequest(name=name, network=network)
    click.echo(Agent(settings).post("/v1/detach", request, Done).message)
