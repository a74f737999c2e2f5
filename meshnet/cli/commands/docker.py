"""Face. Docker on this machine: the driver's units, and the one setting that our names need."""

from __future__ import annotations

from pathlib import Path

import click

from meshnet.cli.output import step
from meshnet.local.settings import Settings


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
    """Have Docker find our driver, and containers the names of the mesh.

    Where systemd runs, the driver's socket is installed and enabled. One address is put first in
    "dns" of Docker's settings; everything else in there is left as it is. Docker reads them when it
    starts; containers that run keep the servers they have.

    \b
      meshnet docker setup && systemctl restart docker
      meshnet docker setup --undo
    """
    from meshnet.containers import docker_setup

    _listen(settings, undo)
    change = docker_setup.undo if undo else docker_setup.setup
    if not change(settings.state_dir, config):
        step(f"{config}: nothing to change")
        return
    step(f'{config}: "dns" {"is as it was" if undo else "has the mesh first"}')
    step("restart Docker for it to take effect: systemctl restart docker")


def _listen(settings: Settings, undo: bool) -> None:
    """Have systemd listen for Docker's calls to the driver, or not any more."""
    from meshnet.cli import units

    if settings.arguments or not units.systemd_here():
        return
    if not undo:
        units.listen(*units.DOCKER)
        step(f"{units.DOCKER[0]} is enabled")
        return
    for unit in units.DOCKER:
        if units.is_known(unit):
            units.disable(unit)
            step(f"{unit} is disabled")
