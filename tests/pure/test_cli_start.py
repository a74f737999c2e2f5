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


@pytest.mark.parametrize("arguments", SHORT, ids=" ".join)
def test_a_short_command_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROBE % (HEAVY,), "--run-dir", str(tmp_path), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    last = result.stderr.splitlines()[-1]
    assert last.startswith("imported: exit: "), result.stderr


@pytest.mark.parametrize(
    ("arguments", "limit"), [(["--help"], 0.060), (["status"], 0.100)], ids=["help", "status"]
)
def test_a_cold_start_takes_a_blink(arguments: list[str], limit: float, tmp_path: Path) -> None:
    # Processor time of the quickest of several runs: what others do on the machine is not ours.
    program = (
        "import sys, resource\n"
        "from meshnet.cli.main import main\n"
        "main(sys.argv[1:])\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_utime + used.ru_stime, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program, "--run-dir", str(tmp_path), *arguments]
    runs = [
        subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        for _ in range(7)
    ]
    assert min(float(run.stderr.splitlines()[-1]) for run in runs) < limit


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
