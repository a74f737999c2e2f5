"""Face. What only looks: status, the lists, the plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from meshnet.cli import tables
from meshnet.cli.output import json_option, print_json, print_table
from meshnet.cli.text import Table
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.wire.local import (
    AttachmentInfo,
    NetworkInfo,
    NodeInfo,
    PeerInfo,
    Plan,
    Reconciled,
    ServiceInfo,
    Status,
)

T = TypeVar("T")


@click.command()
@json_option
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Show this node on one page.

    Which WireGuard carries the tunnels, whether a coordinator is connected, how many peers are
    reachable, what was repaired. Lines that begin with `Warning:` want to be read.

    \b
      meshnet status
      meshnet status --json | jq .counts
    """
    answer = Agent(settings).get("/v1/status", Status)
    if as_json:
        print_json(answer)
    else:
        click.echo(tables.status_text(answer))


@click.command()
@json_option
@click.pass_obj
def nodes(settings: Settings, as_json: bool) -> None:
    """List the nodes of the mesh.

    REACHABLE is as this node sees it, by probes through the tunnel. EXPIRES is when the node's
    membership ends unless it renews itself, which it does unattended.

    \b
      meshnet nodes
      meshnet nodes --json | jq -r '.[] | select(.reachable | not) | .name'
    """
    _list(settings, "/v1/nodes", list[NodeInfo], tables.nodes_table, as_json)


@click.command()
@json_option
@click.pass_obj
def networks(settings: Settings, as_json: bool) -> None:
    """List the networks of the mesh.

    HERE counts the attachments on this node.

    \b
      meshnet networks
      meshnet networks --json
    """
    _list(settings, "/v1/networks", list[NetworkInfo], tables.networks_table, as_json)


@click.command()
@json_option
@click.pass_obj
def services(settings: Settings, as_json: bool) -> None:
    """List services and their instances.

    ANSWERED says whether this node's DNS gives the instance out, and if not, why.

    \b
      meshnet services
      meshnet services --json | jq '.[] | {dns, n: (.instances | length)}'
    """
    _list(settings, "/v1/services", list[ServiceInfo], tables.services_table, as_json)


@click.command()
@json_option
@click.option("--candidates", is_flag=True, help="Show where each peer may be reached.")
@click.pass_obj
def peers(settings: Settings, candidates: bool, as_json: bool) -> None:
    """List the WireGuard peers of this node.

    \b
      meshnet peers
      meshnet peers --candidates
      meshnet peers --json | jq '.[] | {name, rtt}'
    """
    table = tables.candidates_table if candidates else tables.peers_table
    _list(settings, "/v1/peers", list[PeerInfo], table, as_json)


@click.command()
@json_option
@click.pass_obj
def attachments(settings: Settings, as_json: bool) -> None:
    """List what this node has attached to networks.

    \b
      meshnet attachments
      meshnet attachments --json
    """
    _list(settings, "/v1/attachments", list[AttachmentInfo], tables.attachments_table, as_json)


@click.command()
@json_option
@click.option("--apply", is_flag=True, help="Do it now and say what was done.")
@click.pass_obj
def plan(settings: Settings, apply: bool, as_json: bool) -> None:
    """Show what a reconciliation would do now, in order, without doing it.

    Each line is an operation in its own words: the same that is logged when it is applied. Nothing
    is printed when the kernel is as it should be.

    \b
      meshnet plan
      meshnet plan --apply
    """
    agent = Agent(settings)
    if apply:
        done = agent.post("/v1/reconcile", {}, Reconciled)
        _show(done, tables.reconciled_text(done), as_json)
    else:
        planned = agent.get("/v1/plan", Plan)
        _show(planned, tables.numbered(planned.operations), as_json)


def _show(value: object, text: str, as_json: bool) -> None:
    if as_json:
        print_json(value)
    elif text:
        click.echo(text)


def _list(
    settings: Settings,
    path: str,
    kind: type[list[T]],
    table: Callable[[Sequence[T], float], Table],
    as_json: bool,
) -> None:
    items = Agent(settings).get(path, kind)
    if as_json:
        print_json(items)
    else:
        print_table(table(items, time.time()))
