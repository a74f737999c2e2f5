"""The command line starts quickly because it imports little."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from meshnet.cli.main import COMMANDS, main

HEAVY = (
    "aiohttp",
    "aiosqlite",
    "alembic",
    "asyncio",
    "cryptography",
    "dnslib",
    "nacl",
    "prometheus_client",
    "pyroute2",
    "rich",
    "sqlalchemy",
    "stamina",
    "uvloop",
)

LONG = [
    (["join", "mnt1.nothing"], {"nacl", "prometheus_client"}),
    (["agent"], {"aiohttp", "asyncio", "dnslib", "nacl", "prometheus_client"}),
]
"""Commands that people wait for as well, and which of HEAVY each cannot do without."""

PROBE = """
import sys
from meshnet.cli.main import main
code = main(sys.argv[1:])
heavy = sorted({name.partition(".")[0] for name in sys.modules} & set(%r))
print("imported:", *heavy, "exit:", code, file=sys.stderr)
"""

SHORT = [
    [],
    ["--help"],
    ["--version"],
    ["status"],
    ["status", "--json"],
    ["nodes"],
    ["networks"],
    ["services"],
    ["peers"],
    ["attachments"],
    ["plan"],
    ["attach", "--pid", "1"],
    ["detach", "c1"],
    ["service", "add", "web"],
    ["service", "rm", "web"],
    ["dns", "query", "web.mesh"],
    ["join", "--help"],
    ["agent", "--help"],
    ["down", "--help"],
    ["coordinator", "--help"],
    ["token", "--help"],
    ["network", "--help"],
    ["node", "--help"],
    ["completion", "bash"],
    ["nonsense"],
]


def imported(arguments: list[str], place: Path) -> set[str]:
    """Return which of HEAVY a command has imported by its end."""
    options = ["--run-dir", str(place), "--state-dir", str(place)]
    command = [sys.executable, "-c", PROBE % (HEAVY,), *options, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    head, _, rest = result.stderr.splitlines()[-1].partition(" ")
    assert head == "imported:", result.stderr
    return set(rest.partition("exit:")[0].split())


@pytest.mark.parametrize("arguments", SHORT, ids=" ".join)
def test_a_short_command_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert imported(arguments, tmp_path) == set()


@pytest.mark.parametrize(("arguments", "needed"), LONG, ids=["join", "agent"])
def test_joining_and_the_agent_import_what_they_need(
    arguments: list[str], needed: set[str], tmp_path: Path
) -> None:
    assert imported(arguments, tmp_path) == needed


def test_services_read_no_certificate_authorities_of_the_machine() -> None:
    program = (
        "import os, sys\n"
        "from meshnet.cli.authorities import no_authorities\n"
        "with no_authorities():\n"
        "    from aiohttp.connector import _SSL_CONTEXT_VERIFIED as context\n"
        "print(context.cert_store_stats()['x509'], os.environ.get('SSL_CERT_FILE'))\n"
    )
    command = [sys.executable, "-c", program]
    env = {name: value for name, value in os.environ.items() if name != "SSL_CERT_FILE"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert said.stdout.split() == ["0", "None"]


@pytest.mark.parametrize(
    ("arguments", "limit"), [(["--help"], 125), (["status"], 190)], ids=["help", "status"]
)
def test_a_short_command_imports_few_modules(
    arguments: list[str], limit: int, tmp_path: Path
) -> None:
    # How long that takes is for `tests.bench.start` to say, on a machine with nothing else to do.
    # A bare interpreter has 33, with click 95.
    program = (
        "import sys\n"
        "from meshnet.cli.main import main\n"
        "main(sys.argv[1:])\n"
        "print(len(sys.modules), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program, "--run-dir", str(tmp_path), *arguments]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert int(said.stderr.splitlines()[-1]) <= limit


def test_help_says_of_each_command_what_the_command_says_of_itself() -> None:
    for name, entry in COMMANDS.items():
        command = entry.load()
        assert command.name == name
        assert command.help, name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_not_read_the_state_directory_may_still_ask() -> None:
    # Members of the socket's group are no readers of the keys.
    from meshnet.cli.commands import see

    assert see.status.name == "status"
    with tempfile.TemporaryDirectory() as text:
        run_dir = Path(text)
        run_dir.chmod(0o755)
        (run_dir / "state").mkdir(mode=0o700)
        child = os.fork()
        if child == 0:
            os.setresuid(65534, 65534, 65534)
            os._exit(main(["--state-dir", f"{text}/state", "--run-dir", text, "status"]))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 6
