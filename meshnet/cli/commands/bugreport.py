"""Face. A bundle of this node's state for those who help, without secrets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from meshnet.cli.commands.doctor import examine, text_of
from meshnet.cli.output import step
from meshnet.errors import MeshnetError
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.wire.local import (
    AttachmentInfo,
    NetworkInfo,
    NodeInfo,
    PeerInfo,
    Plan,
    ServiceInfo,
    Status,
    encode,
)

TOLD: dict[str, type[Any]] = {
    "status": Status,
    "nodes": list[NodeInfo],
    "networks": list[NetworkInfo],
    "services": list[ServiceInfo],
    "peers": list[PeerInfo],
    "attachments": list[AttachmentInfo],
    "plan": Plan,
}
"""What the agent is asked for."""

PATIENCE = 10.0
"""Seconds for each answer; a busy agent is waited for, one that hangs is left out."""


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write it; meshnet-bugreport-TIME.tar.gz here unless given.",
)
@click.pass_obj
def bugreport(settings: Settings, output: Path | None) -> None:
    """Bundle this node's state into one file for those who help.

    In it: what status, nodes, networks, services, peers, attachments, plan and doctor say, what
    the kernel has of ours, the last log lines, versions. No private key and no token is in it, but
    names and addresses are: look before you publish it. Works without an agent, too.

    \b
      meshnet bugreport
      meshnet bugreport -o /tmp/report.tar.gz && tar -tzf /tmp/report.tar.gz
    """
    from meshnet.agent.bugreport import write

    path = output or Path(f"meshnet-bugreport-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    step("asking the agent, the doctor and the kernel")
    names = write(path.absolute(), settings.state_dir, dict(_told(settings)))
    click.echo(f"{path}: {len(names)} files, no secrets")


def _told(settings: Settings) -> Iterator[tuple[str, bytes]]:
    agent = Agent(settings, PATIENCE)
    for name, kind in TOLD.items():
        try:
            yield f"{name}.json", encode(agent.get(f"/v1/{name}", kind))
        except MeshnetError as error:
            yield f"{name}.error.txt", f"{error.message}\n".encode()
            break
    try:
        yield "doctor.txt", text_of(examine(settings)).encode()
    except MeshnetError as error:
        yield "doctor.error.txt", f"{error.message}\n".encode()
