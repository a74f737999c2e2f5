"""Face. Add and remove service instances behind attachments of this node."""

from __future__ import annotations

import click

from meshnet.cli import types
from meshnet.cli.commands.attach import (
    metadata_option,
    network_option,
    port_option,
    weight_option,
)
from meshnet.cli.complete import complete_attachment, complete_service
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.wire.local import Done, PortSpec, ServiceRequest

attachment_option = click.option(
    "--attachment",
    type=types.name_of("attachment"),
    default=None,
    metavar="NAME",
    shell_complete=complete_attachment,
    help="The attachment behind it.  [default: the host's own]",
)


@click.group()
def service() -> None:
    """Add and remove service instances on this node.

    \b
      meshnet service add web --port 80/tcp
      meshnet service rm web
    """


@service.command()
@click.argument("name", metavar="SERVICE", type=types.name_of("service"))
@network_option
@attachment_option
@port_option
@weight_option
@metadata_option
@click.pass_obj
def add(
    settings: Settings,
    name: str,
    network: str,
    attachment: str | None,
    ports: tuple[PortSpec, ...],
    weight: int,
    metadata: tuple[tuple[str, str], ...],
) -> None:
    """Make an attachment of this node an instance of SERVICE, or change how it is one.

    Without --attachment it is the host itself.

    \b
      meshnet service add web --port 80/tcp
      meshnet service add db --attachment c1 --port 5432/tcp --metadata version=16
      meshnet service add api --network appnet --port grpc:9000/tcp --weight 10
    """
    request = ServiceRequest(
        service=name,
        network=network,
        attachment=attachment or "",
        ports=ports,
        weight=weight,
        metadata=dict(metadata),
    )
    click.echo(Agent(settings).post("/v1/services", request, Done).message)


@service.command()
@click.argument(
    "name", metavar="SERVICE", type=types.name_of("service"), shell_complete=complete_service
)
@network_option
@attachment_option
@click.pass_obj
def rm(settings: Settings, name: str, network: str, attachment: str | None) -> None:
    """Take this node's instance out of SERVICE.

    \b
      meshnet service rm web
      meshnet service rm db --attachment c1
    """
    query = {"attachment": attachment} if attachment else {}
    agent = Agent(settings)
    click.echo(agent.delete(f"/v1/services/{network}/{name}", Done, **query).message)
