"""Face. Docker on this machine: the one setting that it needs for our names."""

from __future__ import annotations

from pathlib import Path

import click

from meshnet.cli.output import step
from meshnet.cli.settings import Settings


@click.group()
def docker() -> None:
    """Set Docker up for the mesh.

    Containers find the mesh's names by one setting of Docker's; networks need none.

    \b
      meshnet docker setup
      docker network create -d meshnet appnet
      docker run -d --network appnet --label mesh.service=web IMAGE
    """


@docker.command()
@click.option("--undo", is_flag=True, help="Take it back.")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default="/etc/docker/daemon.json",
    show_default=True,
    help="Docker's settings.",
)
@click.pass_obj
def setup(settings: Settings, undo: bool, config: Path) -> None:
    """Have containers find names of the mesh.

    Puts one address first in "dns" of Docker's settings, and leaves everything else as it is.
    Docker reads them when it starts; containers that run keep the servers they have.

    \b
      meshnet docker setup && systemctl restart docker
      meshnet docker setup --undo
    """
    from meshnet.containers import docker_setup

    change = docker_setup.undo if undo else docker_setup.setup
    if not change(settings.state_dir, config):
        step(f"{config}: nothing to change")
        return
    step(f'{config}: "dns" {"is as it was" if undo else "has the mesh first"}')
    step("restart Docker for it to take effect: systemctl restart docker")
