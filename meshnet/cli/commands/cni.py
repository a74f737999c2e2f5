"""Face. CNI on this machine: the plugin where a container runtime looks for it."""

from __future__ import annotations

from pathlib import Path

import click

from meshnet.cli import types
from meshnet.cli.output import step
from meshnet.local.settings import Settings


@click.group()
def cni() -> None:
    """Set a container runtime up for the mesh: Kubernetes nodes, podman, containerd.

    \b
      meshnet cni setup --conf-dir /etc/cni/net.d
      meshnet cni setup --undo --conf-dir /etc/cni/net.d
    """


@cni.command()
@click.option("--undo", is_flag=True, help="Take it away again.")
@click.option(
    "--bin-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="/opt/cni/bin",
    show_default=True,
    help="Where the runtime looks for plugins.",
)
@click.option(
    "--conf-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where it looks for configurations; none is written without this.",
)
@click.option(
    "--network",
    type=types.name_of("network"),
    default="default",
    show_default=True,
    metavar="NETWORK",
    help="The network of the mesh that containers are on.",
)
@click.pass_obj
def setup(
    settings: Settings, undo: bool, bin_dir: Path, conf_dir: Path | None, network: str
) -> None:
    """Put the plugin meshnet-cni where a runtime finds it, and a configuration if asked.

    A configuration of this name that is there already stays as it is. Run this again when meshnet
    was installed elsewhere. `meshnet down --purge` takes away what was put there, too.

    \b
      meshnet cni setup
      meshnet cni setup --conf-dir /etc/cni/net.d --network appnet
      meshnet cni setup --bin-dir /usr/lib/cni
    """
    from meshnet.containers import cni_setup, setups

    if undo:
        paths = cni_setup.undo(bin_dir, conf_dir)
        setups.forget(settings.state_dir, paths)
    else:
        paths = cni_setup.setup(bin_dir, conf_dir, network)
        setups.note(settings.state_dir, paths)
    for path in paths:
        step(f"{path}: {'removed' if undo else 'written'}")
