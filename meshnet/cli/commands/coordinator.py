"""Face. Set up a coordinator, run it, see how it is."""

from __future__ import annotations

import time

import click

from meshnet.cli import types
from meshnet.cli.authorities import no_authorities
from meshnet.cli.logs import log_level_option, start_logging
from meshnet.cli.output import json_option, print_json, step
from meshnet.errors import BadInput
from meshnet.local.settings import Settings

UNIT = "meshnet-coordinator.service"
USERS = "meshnet.sysusers"


@click.group()
def coordinator() -> None:
    """Set up a coordinator, run it, see how it is.

    A coordinator lets nodes in and passes facts on. The mesh goes on without it.

    \b
      meshnet coordinator init --url https://coordinator.example:7443
      meshnet coordinator run
      meshnet coordinator status
    """


@coordinator.command()
@click.option(
    "--url",
    "urls",
    multiple=True,
    metavar="URL",
    help="Where nodes reach it, https://HOST[:PORT]; may be repeated.  [default: this machine]",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="HOST:PORT",
    help="Where it listens; may be repeated.  [default: the port of the URL on all addresses]",
)
@click.option(
    "--mesh-prefix",
    type=types.prefix,
    metavar="PREFIX",
    help="IPv4 prefix of the nodes' mesh addresses.  [default: 10.213.0.0/16]",
)
@click.option("--start", is_flag=True, help="Start it by systemd, now and at every boot.")
@click.pass_obj
def init(
    settings: Settings,
    urls: tuple[str, ...],
    listen: tuple[str, ...],
    mesh_prefix: str | None,
    start: bool,
) -> None:
    """Make a new mesh: its keys, its certificate, its store, network `default`.

    The root key is needed once in some years, to certify the issuing key again. Move `root.key`
    from the state directory to a safe place.

    \b
      meshnet coordinator init
      meshnet coordinator init --url https://coordinator.example:7443
      meshnet coordinator init --url https://192.0.2.1 --listen 0.0.0.0:443 --start
    """
    if start:
        _check_systemd(settings)
    from meshnet.coordinator.setup import MESH_PREFIX4, initialise

    step("making keys, certificate and store")
    made = initialise(settings.coordinator_dir, urls, listen, mesh_prefix or MESH_PREFIX4)
    click.echo(f"A new mesh, in {made.state_dir}")
    click.echo(f"URLs: {' '.join(made.urls)}")
    click.echo(f"Listens on: {' '.join(map(str, made.listen))}")
    click.echo(f"TLS pin: {made.pin}")
    click.echo(f"Root key: {made.root}")
    if start:
        _start(settings)
    else:
        command = " ".join(["meshnet", *settings.arguments, "coordinator run"])
        step(f"run it: `{command}`")


def _check_systemd(settings: Settings) -> None:
    from meshnet.cli import units

    if settings.arguments or not units.systemd_here():
        raise BadInput(
            "systemd does not run this machine, or other directories than its own are asked for",
            "Leave --start out and run `meshnet coordinator run`.",
        )


def _start(settings: Settings) -> None:
    from meshnet.cli import units

    units.make_users(USERS)
    # Its own user passes through the node's directory to the coordinator's.
    settings.state_dir.chmod(settings.state_dir.stat().st_mode | 0o011)
    step(f"starting {UNIT}, now and at every boot")
    if units.enable(UNIT):
        step(f"installed {units.SYSTEM_DIR / UNIT}")


@coordinator.command()
@log_level_option
@click.pass_obj
def run(settings: Settings, log_level: str) -> None:
    """Run the coordinator in the foreground until it is told to stop.

    \b
      meshnet coordinator run
      meshnet coordinator run --log-level debug
    """
    with no_authorities():
        from meshnet.coordinator.main import run as run_coordinator

    start_logging(log_level)
    run_coordinator(settings.coordinator_dir, settings.run_dir)


@coordinator.command()
@json_option
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Show the coordinator of this machine on one page.

    \b
      meshnet coordinator status
      meshnet coordinator status --json | jq .watching
    """
    from meshnet.cli.admin_tables import coordinator_text
    from meshnet.coordinator.admin_client import AdminClient

    answer = AdminClient(settings.coordinator_socket).status()
    if as_json:
        print_json(answer)
    else:
        click.echo(coordinator_text(answer, time.time()))


@coordinator.command(name="renew-issuer")
@click.option(
    "--root-key",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="The root key, where it is not in the state directory.",
)
@click.pass_obj
def renew_issuer(settings: Settings, root_key: str | None) -> None:
    """Certify the issuing key for some more years, by the root key. Stop the coordinator first.

    \b
      systemctl stop meshnet-coordinator
      meshnet coordinator renew-issuer --root-key /media/safe/root.key
      systemctl start meshnet-coordinator
    """
    from pathlib import Path

    from meshnet.coordinator.setup import renew_issuer as renew

    renew(settings.coordinator_dir, Path(root_key) if root_key else None)
    click.echo("the issuing key is certified anew")
