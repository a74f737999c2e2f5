"""Face. Make this machine a node: keys, membership, and the agent started.

The secret of a token given as an argument can be read by other users of the machine for as long as
the command runs; `-` and `--token-file` keep it out of sight.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from shutil import which

import click

from meshnet.cli import types
from meshnet.cli.output import step
from meshnet.errors import BadInput, MeshnetError, Unavailable
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.model.names import DEFAULT_NETWORK
from meshnet.wire.local import Status

UNIT = "meshnet-agent.service"
PATIENCE = 60.0
PACE = 0.1


@click.command()
@click.argument("token", required=False)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, readable=True),
    metavar="FILE",
    help="Read the token from a file.",
)
@click.option(
    "--name",
    type=types.name_of("node"),
    metavar="NAME",
    help="The node's name.  [default: the host name]",
)
@click.option(
    "--listen-port",
    type=click.IntRange(1, 65535),
    default=51820,
    show_default=True,
    metavar="PORT",
    help="UDP port of WireGuard; the next free one is taken if it is in use.",
)
@click.option("--no-host", is_flag=True, help="Do not attach the host to network default.")
@click.option("--no-start", is_flag=True, help="Do not start the agent by systemd.")
@click.option("--wait", is_flag=True, help="Wait until the agent is connected, a minute at most.")
@click.pass_obj
def join(
    settings: Settings,
    token: str | None,
    token_file: str | None,
    name: str | None,
    listen_port: int,
    no_host: bool,
    no_start: bool,
    wait: bool,
) -> None:
    """Make this machine a node of the mesh that TOKEN is for.

    Keys are made here and never leave. TOKEN may be `-` for standard input, so that it appears in
    no list of processes. Where systemd runs, the agent is started and will be at every boot;
    elsewhere run `meshnet agent`.

    \b
      meshnet join mnt1.…
      ssh coordinator meshnet token create | meshnet join -
      meshnet join --token-file mesh.token --name web-1 --wait
    """
    text = _read_token(token, token_file)
    _check_machine()
    from meshnet.agent.enrol import enrol

    step("making keys and asking a coordinator to let this machine in")
    networks = () if no_host else (DEFAULT_NETWORK,)
    given = enrol(
        settings.state_dir, text, name=name or "", listen_port=listen_port, host_networks=networks
    )
    click.echo(f"{given.name} is a node of the mesh: {' '.join(given.addresses)}")
    started = not no_start and _start(settings)
    if wait:
        _wait(settings)
    elif not started:
        command = " ".join(["meshnet", *settings.arguments, "agent"])
        step(f"the agent was not started: run `{command}`")


def _check_machine() -> None:
    """A machine that can carry no tunnel takes no use of a token, and no name."""
    if which("wireguard-go") is None and not Path("/sys/module/wireguard").exists():
        from meshnet.linux.backend import pick_backend

        pick_backend()


def _read_token(argument: str | None, path: str | None) -> str:
    if (argument is None) == (path is None):
        raise BadInput(
            "join needs a token: as an argument, as `-` for standard input, or by --token-file",
            "Make one on a coordinator: `meshnet token create`.",
        )
    if path is not None:
        return Path(path).read_text(errors="replace").strip()
    return sys.stdin.readline().strip() if argument == "-" else str(argument).strip()


def _start(settings: Settings) -> bool:
    """Start the agent by systemd where that runs this machine; say whether it did."""
    from meshnet.cli import units

    if settings.arguments or not units.systemd_here():
        return False
    step(f"starting {UNIT}, now and at every boot")
    if units.enable(UNIT):
        step(f"installed {units.SYSTEM_DIR / UNIT}")
    return True


def _wait(settings: Settings) -> None:
    step("waiting for the agent to be connected")
    limit = time.monotonic() + PATIENCE
    last: MeshnetError = Unavailable("the agent is not connected to a coordinator")
    while time.monotonic() < limit:
        try:
            status = Agent(settings).get("/v1/status", Status)
        except Unavailable as error:
            last = error
        else:
            if status.coordinator.connected:
                step(f"connected, {status.counts.reachable} of {status.counts.peers} peers reached")
                return
        time.sleep(PACE)
    raise Unavailable(
        f"not connected after {PATIENCE:.0f} s: {last.message}", "See `meshnet status`."
    )
