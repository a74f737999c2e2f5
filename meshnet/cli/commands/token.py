"""Face. Join tokens, made and revoked by root on a coordinator's machine."""

from __future__ import annotations

import time

import click

from meshnet.cli import types
from meshnet.cli.output import json_option, print_json, print_table, step
from meshnet.cli.text import count, span
from meshnet.local.settings import Settings


@click.group()
def token() -> None:
    """Create, list and revoke join tokens, on the coordinator's machine.

    \b
      meshnet token create --ttl 1h --uses 10
      meshnet token list
      meshnet token revoke 3f2a9c
    """


@token.command()
@click.option(
    "--ttl",
    type=types.duration,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="How long it can be used: 15m, 1h, 7d.",
)
@click.option(
    "--uses",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many nodes may join with it.",
)
@click.option(
    "--tag",
    "tags",
    type=types.name_of("tag"),
    multiple=True,
    metavar="TAG",
    help="A tag that its nodes get; may be repeated.",
)
@json_option
@click.pass_obj
def create(settings: Settings, ttl: int, uses: int, tags: tuple[str, ...], as_json: bool) -> None:
    """Make a join token and print it, alone, on standard output.

    It is shown this once: the coordinator keeps a hash. Whoever has it may join, so treat it as a
    password.

    \b
      meshnet token create
      meshnet token create --ttl 7d --uses 100 --tag office
      meshnet token create | ssh web-1 meshnet join -
    """
    from meshnet.coordinator.admin_client import AdminClient

    made = AdminClient(settings.coordinator_socket).create_token(ttl, uses, tags)
    if as_json:
        print_json(made)
        return
    click.echo(made.text)
    step(f"token {made.id}: {count(uses, 'use')}, good for {span(ttl)}")


@token.command(name="list")
@json_option
@click.pass_obj
def list_tokens(settings: Settings, as_json: bool) -> None:
    """List the join tokens there are, without their secrets.

    \b
      meshnet token list
      meshnet token list --json
    """
    from meshnet.cli.admin_tables import tokens_table
    from meshnet.coordinator.admin_client import AdminClient

    tokens = AdminClient(settings.coordinator_socket).tokens()
    if as_json:
        print_json(tokens)
    else:
        print_table(tokens_table(tokens, time.time()))


@token.command()
@click.argument("token_id", metavar="ID")
@click.pass_obj
def revoke(settings: Settings, token_id: str) -> None:
    """Make token ID useless from now on. Nodes that joined with it stay.

    \b
      meshnet token revoke 3f2a9c
    """
    from meshnet.coordinator.admin_client import AdminClient

    AdminClient(settings.coordinator_socket).revoke_token(token_id)
    click.echo(f"token {token_id} is revoked")
