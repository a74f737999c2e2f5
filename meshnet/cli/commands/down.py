"""Face. Take meshnet out of the kernel, with or without an agent to ask."""

from __future__ import annotations

import os
import select

import click

from meshnet.cli.output import step
from meshnet.errors import MeshnetError, Unavailable
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.wire.local import Done, DownRequest

PATIENCE = 30.0


@click.command()
@click.option("--purge", is_flag=True, help="Forget the membership, the keys and all facts too.")
@click.option("--yes", is_flag=True, help="Do not ask before a purge.")
@click.pass_obj
def down(settings: Settings, purge: bool, yes: bool) -> None:
    """Stop the agent and take all that is meshnet's out of this machine's kernel.

    Tunnels, networks, routes and filters go, and only those that carry our mark. The membership
    stays, so `meshnet agent` brings everything back. With --purge the node leaves the mesh for
    good: a coordinator is told, which frees its name at once, and nothing is left on this machine,
    not even what `meshnet docker|podman|cni setup` did, nor Docker's networks of ours that no
    container runs on; the others are named. It then needs a new token to join again.
    Where no coordinator can be reached, all is purged the same, and the command fails at its end
    to say what is left to do.

    \b
      meshnet down
      meshnet down --purge --yes
    """
    if purge and not yes:
        question = f"Forget the membership and the keys in {settings.state_dir}?"
        click.confirm(question, abort=True, err=True)
    if purge:
        _leave_engines(settings)
    fault = _leave(settings) if purge else None
    _stop_unit(settings, purge)
    _ask_agent(settings, purge)
    from meshnet.agent.down import down as take_away

    for line in take_away(settings.state_dir, settings.run_dir, purge=purge):
        step(line)
    if fault is not None:
        raise fault


def _leave(settings: Settings) -> MeshnetError | None:
    """Tell a coordinator that we go; return what kept us from it."""
    from meshnet.agent.down import leave

    step("telling a coordinator that this node leaves")
    try:
        step(leave(settings.state_dir))
    except MeshnetError as error:
        return error
    return None


def _leave_engines(settings: Settings) -> None:
    """Take our networks and plugins from the engines, and our resolver out of Docker's settings; a
    fault there is said, and stops nothing."""
    from meshnet.containers import docker_leave, docker_setup, setups
    from meshnet.containers.docker import ENGINE, STATE
    from meshnet.containers.docker_engine import Engine

    try:
        for line in docker_leave.leave(Engine(ENGINE), settings.state_dir / STATE):
            step(line)
    except MeshnetError as error:
        step(f"Docker's networks are left alone: {error.message}")
    try:
        for line in setups.undo(settings.state_dir):
            step(line)
    except MeshnetError as error:
        step(f"what was set up for engines is left: {error.message}")
    try:
        if docker_setup.undo(settings.state_dir):
            step(f'{docker_setup.DAEMON}: "dns" is as it was; restart Docker')
    except MeshnetError as error:
        step(f"Docker's settings are left alone: {error.message}")


def _stop_unit(settings: Settings, purge: bool) -> None:
    from meshnet.cli import units

    unit = "meshnet-agent.service"
    if settings.arguments or not units.systemd_here() or not units.is_known(unit):
        return
    if purge:
        step(f"stopping {unit}, now and at every boot")
        for each in (unit, *filter(units.is_known, units.DOCKER)):
            units.disable(each)
    else:
        step(f"stopping {unit}")
        units.stop(unit)


def _ask_agent(settings: Settings, purge: bool) -> None:
    """Have an agent that runs take its own away and end, and wait until it has ended."""
    agent = Agent(settings)
    process = agent.process()
    if process is None:
        return
    step("the agent stops and takes all of its own away")
    try:
        agent.post("/v1/down", DownRequest(purge=purge), Done)
        if not select.select([process], [], [], PATIENCE)[0]:
            raise Unavailable(
                f"the agent has not ended in {PATIENCE:.0f} s", "See what it logs, then end it."
            )
    finally:
        os.close(process)
