"""Face. Entry point: the table of commands, the global options, and errors as two lines.

Nothing below the command line prints an error or exits. It raises from the tree in
`meshnet.errors`; here that becomes

    error: what went wrong, and on which object
    hint: what to do next

on standard error, and the exit code of the class. A mistake of ours becomes one line, and its
traceback when MESHNET_DEBUG=1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from meshnet import __version__
from meshnet.cli.lazy import Entry, LazyGroup
from meshnet.errors import MeshnetError

EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141

_HERE = "meshnet.cli.commands"
_START, _SEE, _CHANGE, _ADMIN = "Start and stop", "See", "Change", "Run a mesh"

COMMANDS = {
    "join": Entry(f"{_HERE}.join:join", _START, "Make this machine a node of a mesh."),
    "agent": Entry(f"{_HERE}.agent:agent", _START, "Run the agent in the foreground."),
    "down": Entry(f"{_HERE}.down:down", _START, "Take meshnet out of this machine's kernel."),
    "status": Entry(f"{_HERE}.see:status", _SEE, "Show this node on one page."),
    "nodes": Entry(f"{_HERE}.see:nodes", _SEE, "List the nodes of the mesh."),
    "peers": Entry(f"{_HERE}.see:peers", _SEE, "List the WireGuard peers of this node."),
    "networks": Entry(f"{_HERE}.see:networks", _SEE, "List the networks of the mesh."),
    "services": Entry(f"{_HERE}.see:services", _SEE, "List services and their instances."),
    "attachments": Entry(f"{_HERE}.see:attachments", _SEE, "List what this node has attached."),
    "plan": Entry(f"{_HERE}.see:plan", _SEE, "Show what a reconciliation would do now."),
    "dns": Entry(f"{_HERE}.dns:dns", _SEE, "Ask for a name; set static records."),
    "doctor": Entry(f"{_HERE}.doctor:doctor", _SEE, "Find out what is wrong, or why A misses B."),
    "bugreport": Entry(
        f"{_HERE}.bugreport:bugreport", _SEE, "Bundle this node's state, without secrets."
    ),
    "attach": Entry(f"{_HERE}.attach:attach", _CHANGE, "Attach a namespace to a network."),
    "detach": Entry(f"{_HERE}.attach:detach", _CHANGE, "Take an attachment away."),
    "service": Entry(f"{_HERE}.service:service", _CHANGE, "Add and remove service instances."),
    "key": Entry(f"{_HERE}.key:key", _CHANGE, "Change this node's WireGuard key."),
    "network": Entry(f"{_HERE}.network:network", _CHANGE, "Create and remove networks."),
    "docker": Entry(f"{_HERE}.docker:docker", _CHANGE, "Set Docker up for the mesh's names."),
    "podman": Entry(f"{_HERE}.podman:podman", _CHANGE, "Set podman up for networks of the mesh."),
    "cni": Entry(f"{_HERE}.cni:cni", _CHANGE, "Set a container runtime up for the CNI plugin."),
    "coordinator": Entry(
        f"{_HERE}.coordinator:coordinator", _ADMIN, "Set up a coordinator and run it."
    ),
    "token": Entry(f"{_HERE}.token:token", _ADMIN, "Create, list and revoke join tokens."),
    "node": Entry(f"{_HERE}.node:node", _ADMIN, "List and revoke members."),
    "completion": Entry(f"{_HERE}.completion:completion", _ADMIN, "Print shell completion."),
}

EPILOG = """\b
Exit codes:
  0 done                 5 refused                  10 token truncated
  1 failed               6 not reachable            11 token damaged
  2 wrong arguments      7 refused by the kernel    12 token unknown
  3 not found            8 not authentic            13 token expired
  4 exists already      16 coordinator's key is     14 token revoked
 70 a bug of meshnet       not the token's pin      15 token used up
130 stopped             17 too many attempts
"""


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    epilog=EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="meshnet")
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, readable=False),
    default="/var/lib/meshnet",
    show_default=True,
    help="Where keys and facts are kept.",
)
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, readable=False),
    default="/run/meshnet",
    show_default=True,
    help="Where the sockets are.",
)
@click.pass_context
def meshnet(ctx: click.Context, state_dir: str, run_dir: str) -> None:
    """One encrypted network for containers on any hosts.

    \b
    On a machine the others can reach:
      meshnet coordinator init --url https://coordinator.example:7443
      meshnet coordinator run
      meshnet token create --ttl 1h --uses 10
    \b
    On every machine, with the token it printed:
      meshnet join mnt1.…
    \b
    Then:
      meshnet attach --pid 4711 --name c1 --service web --port 80/tcp
      curl http://web.mesh/

    Each command has its own --help with examples.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return
    from meshnet.local.settings import Settings

    ctx.obj = Settings.of(state_dir, run_dir)


def run() -> None:
    """Run the command line and exit."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code. Errors are printed, none escapes."""
    try:
        result = meshnet.main(list(arguments), prog_name="meshnet", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except MeshnetError as error:
        return _fail(error.message, error.hint, error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), _usage_hint(error), 2)
    except (click.Abort, KeyboardInterrupt):
        return _fail("stopped", "", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except Exception as error:
        return _bug(error)


def _fail(message: str, hint: str, code: int) -> int:
    click.echo(f"{click.style('error:', fg='red')} {_one_line(message)}", err=True)
    if hint:
        click.echo(f"{click.style('hint:', fg='cyan')} {_one_line(hint)}", err=True)
    return code


def _usage_hint(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "meshnet"
    return f"See `{path} --help`."


def _bug(error: Exception) -> int:
    if os.environ.get("MESHNET_DEBUG") == "1":
        import traceback

        traceback.print_exc()
    what = f"{type(error).__name__}: {error}"
    return _fail(f"a bug of meshnet, {what} (MESHNET_DEBUG=1 shows where)", "", EXIT_BUG)


def _one_line(text: str) -> str:
    return " ".join(text.split())
