"""Face. What is wrong: the doctor, and a bundle of this node's state for those who help."""

from __future__ import annotations

import asyncio

import click

from meshnet.cli.output import json_option, print_json
from meshnet.errors import Unavailable
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.wire.local import Diagnosis, Finding, Status

PATIENCE = 3.0
"""Seconds an agent may take to show that it is there."""
MARKS = {"ok": "ok", "wrong": "WRONG", "note": "note", "skipped": "-"}
COLOURS = {"ok": "green", "wrong": "red", "note": "yellow", "skipped": ""}


@click.command()
@click.argument("a", required=False, default="")
@click.argument("b", required=False, default="")
@json_option
@click.pass_context
def doctor(ctx: click.Context, a: str, b: str, as_json: bool) -> None:
    """Find out what is wrong with this node, or why A does not reach B.

    A and B are names of nodes, attachments or services: n1, c1, c1.n2, web, web.appnet. Run it on
    the node of A or of B: a third one sees little of the two. The checks go from cause to effect,
    so mend what is marked with an arrow and ask again. Works without an agent, too. Exits with 0
    when all is well and with 1 when something is wrong.

    \b
      meshnet doctor
      meshnet doctor n1 n2
      meshnet doctor c1 web.appnet
      meshnet doctor --json | jq '.findings[] | select(.first)'
    """
    if bool(a) != bool(b):
        raise click.UsageError("Give no name, or both A and B.", ctx)
    found = examine(ctx.obj, a, b)
    if as_json:
        print_json(found)
    else:
        click.echo(text_of(found))
    if any(one.state == "wrong" for one in found.findings):
        ctx.exit(1)


def examine(settings: Settings, a: str = "", b: str = "") -> Diagnosis:
    """Have the agent examine, or do it here where no agent answers."""
    try:
        Agent(settings, PATIENCE).get("/v1/status", Status)
    except Unavailable:
        from meshnet.agent.doctor import examine_files

        return asyncio.run(examine_files(settings.state_dir, a, b))
    return Agent(settings).get("/v1/doctor", Diagnosis, a=a, b=b)


def text_of(found: Diagnosis) -> str:
    """Return a diagnosis as lines: check, state, what was found, and what to do."""
    seen = f", as {found.at} sees it" if found.at and found.at != found.subject else ""
    lines = [f"{found.subject}{seen}{'' if found.agent else ' (no agent answers)'}:"]
    for one in found.findings:
        lines += _lines(one)
    return "\n".join(lines)


def _lines(one: Finding) -> list[str]:
    arrow = "→" if one.first else " "
    mark = MARKS[one.state].ljust(5)
    shown = click.style(mark, fg=COLOURS[one.state]) if COLOURS[one.state] else mark
    lines = [f"{arrow} {one.check.ljust(9)}  {shown}  {one.text}"]
    return [*lines, f"{'':20}{one.do}"] if one.do else lines
