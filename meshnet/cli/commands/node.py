"""Face. Who is a member, as the coordinator has it; and membership taken away."""

from __future__ import annotations

import time

import click

from meshnet.cli import types
from meshnet.cli.complete import complete_node
from meshnet.cli.output import json_option, print_json, print_table
from meshnet.local.settings import Settings


@click.group()
def node() -> None:
    """List and revoke members, on the coordinator's machine.

    `meshnet nodes` asks the node it runs on instead, and needs no coordinator.

    \b
      meshnet node list
      meshnet node revoke web-1
    """


@node.command(name="list")
@json_option
@click.pass_obj
def list_nodes(settings: Settings, as_json: bool) -> None:
    """List everybody who has joined: since when, by which token, and whether it is connected.

    \b
      meshnet node list
      meshnet node list --json | jq -r '.[] | select(.state == "silent") | .name'
    """
    from meshnet.cli.admin_tables import members_table
    from meshnet.coordinator.admin_client import AdminClient

    nodes = AdminClient(settings.coordinator_socket).nodes()
    if as_json:
        print_json(nodes)
    else:
        print_table(members_table(nodes, time.time()))


@node.command()
@click.argument("name", type=types.name_of("node"), shell_complete=complete_node)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def revoke(settings: Settings, name: str, yes: bool) -> None:
    """Take the membership of node NAME away, for good.

    All others drop its tunnel, its attachments and its services as soon as they hear of it. The
    machine can join again with a new token, as a new node.

    \b
      meshnet node revoke web-1
      meshnet node revoke web-1 --yes
    """
    if not yes:
        click.confirm(f"Revoke node {name}?", abort=True, err=True)
    from meshnet.coordinator.admin_client import AdminClient

    AdminClient(settings.coordinator_socket).revoke_node(name)
    click.echo(f"node {name} is revoked")
