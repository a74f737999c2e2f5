"""Face. Run the agent in the foreground; systemd does the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from meshnet.cli.authorities import no_authorities
from meshnet.cli.logs import log_level_option, start_logging
from meshnet.errors import BadInput
from meshnet.local.settings import Settings

ENGINES = ("/run/docker.sock", "/run/podman/podman.sock")
"""Where container engines listen. Only containers with a label of ours are touched, so both are
followed where nobody says otherwise."""


def _engine(text: str) -> Path | None:
    path = text.removeprefix("unix://")
    if path != "none" and not path.startswith("/"):
        raise BadInput(
            f"engine {text[:80]!r} is not the path of a socket", "unix:///run/docker.sock"
        )
    return None if path == "none" else Path(path)


@click.command()
@click.option(
    "--engine",
    "engines",
    type=_engine,
    multiple=True,
    default=ENGINES,
    show_default=True,
    envvar="MESHNET_ENGINES",
    metavar="SOCKET",
    help="A Docker or podman whose containers are attached when they have a label mesh.service or "
    "mesh.network; may be repeated; `none` for none.",
)
@log_level_option
@click.pass_obj
def agent(settings: Settings, engines: tuple[Path | None, ...], log_level: str) -> None:
    """Run the agent in the foreground until it is told to stop.

    It brings tunnels, networks and names up and keeps them as they should be. When it stops they
    stay, so that a restart loses no packet; `meshnet down` takes them away.

    \b
      meshnet agent
      meshnet agent --log-level debug
      meshnet agent --engine unix:///run/docker.sock
    """
    with no_authorities():
        from meshnet.agent.main import Config, run
        from meshnet.containers.discovery import follow

    start_logging(log_level)
    paths = dict.fromkeys(path for path in engines if path is not None)
    run(Config(settings.state_dir, settings.run_dir), [partial(follow, path) for path in paths])
