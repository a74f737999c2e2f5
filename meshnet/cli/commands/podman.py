"""Face. podman on this machine: our driver where its netavark looks."""

from __future__ import annotations

from pathlib import Path

import click

from meshnet.cli.output import step
from meshnet.local.settings import Settings

DRIVER = "meshnet"


@click.group()
def podman() -> None:
    """Set podman 5 up for networks of the mesh. podman 4 has `meshnet cni setup`.

    \b
      meshnet podman setup
      podman network create -d meshnet appnet
      podman run -d --network appnet --label mesh.service=web IMAGE
    """


@podman.command()
@click.option("--undo", is_flag=True, help="Take it away again.")
@click.option(
    "--plugin-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="/usr/local/libexec/netavark",
    show_default=True,
    help="Where netavark looks for drivers.",
)
@click.pass_obj
def setup(settings: Settings, undo: bool, plugin_dir: Path) -> None:
    """Put the network driver `meshnet` where podman's netavark finds it.

    Run this again when meshnet was installed elsewhere. `meshnet down --purge` takes it away, too.

    \b
      meshnet podman setup
      meshnet podman setup --undo
    """
    from meshnet.containers import launcher, setups

    path = plugin_dir / DRIVER
    if not undo:
        step(f"{launcher.put(path, 'netavark', 'podman')}: written")
        setups.note(settings.state_dir, [path])
    elif launcher.is_ours(path, "podman"):
        step(f"{launcher.remove(path)}: removed")
        setups.forget(settings.state_dir, [path])
