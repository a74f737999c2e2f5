"""Face. This node's WireGuard key: change it while the node is in the mesh."""

from __future__ import annotations

import click

from meshnet.cli.output import json_option, print_json
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.wire.local import KeyRotated, KeyRotateRequest


@click.group()
def key() -> None:
    """Change this node's WireGuard key.

    The identity key, by which the mesh knows the node, stays: for another one, leave and join anew.

    \b
      meshnet key rotate
    """


@key.command()
@click.option("--force", is_flag=True, help="Also when peers in reach do not hear of it now.")
@json_option
@click.pass_obj
def rotate(settings: Settings, force: bool, as_json: bool) -> None:
    """Give this node a new WireGuard key, made here. The old one is forgotten.

    A coordinator must be connected: it certifies the key and tells the peers. Addresses, networks
    and attachments stay as they are, and connections go on. Nodes that are away learn of it when
    they come back.

    \b
      meshnet key rotate
      meshnet key rotate --json | jq -r .public_key
    """
    done = Agent(settings).post("/v1/key/rotate", KeyRotateRequest(force=force), KeyRotated)
    if as_json:
        print_json(done)
        return
    click.echo(f"WireGuard key: {done.public_key}, was {done.previous}")
    shaken = done.peers - len(done.waiting)
    click.echo(f"Peers: {shaken} of {done.peers} in reach have shaken hands by it")
    if done.waiting:
        click.echo(f"Warning: not yet: {' '.join(done.waiting)}")
