"""Face. Create and remove networks: by the coordinator on this machine, or else by the agent."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

import click

from meshnet.cli import types
from meshnet.cli.complete import complete_network
from meshnet.cli.output import json_option, print_json
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.wire.local import Done, NetworkInfo, NetworkRequest

if TYPE_CHECKING:
    from meshnet.coordinator import admin_api


@click.group()
def network() -> None:
    """Create and remove networks.

    A network is one isolated segment across all nodes, with prefixes of its own.

    \b
      meshnet network create appnet
      meshnet network rm appnet
    """


@network.command()
@click.argument("name", type=types.name_of("network"))
@click.option(
    "--prefix",
    "prefixes",
    type=types.prefix,
    multiple=True,
    metavar="PREFIX",
    help="Its prefix, one of each family at most.  [default: free ones]",
)
@click.option("--flood", is_flag=True, help="Carry broadcast and multicast to all members.")
@json_option
@click.pass_obj
def create(
    settings: Settings, name: str, prefixes: tuple[str, ...], flood: bool, as_json: bool
) -> None:
    """Create network NAME.

    Containers on different networks never see each other, also where prefixes overlap.

    \b
      meshnet network create appnet
      meshnet network create appnet --prefix 10.20.0.0/16 --prefix fd00:20::/64
    """
    made: NetworkInfo | admin_api.NetworkInfo
    if settings.coordinator_socket.exists():
        made = _create_here(settings, name, prefixes, flood)
    else:
        request = NetworkRequest(name=name, prefixes=prefixes, flood=flood)
        made = Agent(settings).post("/v1/networks", request, NetworkInfo)
    if as_json:
        print_json(made)
    else:
        click.echo(f"network {made.name}: VNI {made.vni}, {' '.join(map(str, made.prefixes))}")


def _create_here(
    settings: Settings, name: str, prefixes: tuple[str, ...], flood: bool
) -> admin_api.NetworkInfo:
    from meshnet.coordinator.admin_client import AdminClient
    from meshnet.wire import api

    request = api.NetworkRequest(name, tuple(ip_network(text) for text in prefixes), flood)
    return AdminClient(settings.coordinator_socket).create_network(request)


@network.command()
@click.argument("name", type=types.name_of("network"), shell_complete=complete_network)
@click.pass_obj
def rm(settings: Settings, name: str) -> None:
    """Remove network NAME. It must have no attachments left.

    \b
      meshnet network rm appnet
    """
    if settings.coordinator_socket.exists():
        from meshnet.coordinator.admin_client import AdminClient

        AdminClient(settings.coordinator_socket).remove_network(name)
    else:
        Agent(settings).delete(f"/v1/networks/{name}", Done)
    click.echo(f"network {name} is removed")
