"""Face. Run the agent in the foreground; systemd does the same."""

from __future__ import annotations

import click

from meshnet.cli.logs import log_level_option, start_logging
from meshnet.cli.settings import Settings


@click.command()
@log_level_option
@click.pass_obj
def agent(settings: Settings, log_level: str) -> None:
    """Run the agent in the foreground until it is told to stop.

    It brings tunnels, networks and names up and keeps them as they should be. When it stops they
    stay, so that a restart loses no packet; `meshnet down` takes them away.

    \b
      meshnet agent
      meshnet agent --log-level debug
    """
    from meshnet.agent.main import Config, run

    start_logging(log_level)
    run(Config(settings.state_dir, settings.run_dir))
