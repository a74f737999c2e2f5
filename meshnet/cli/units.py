"""Shell. systemd, as far as the command line uses it: install a unit of ours and start it.

Only the machine's own systemd counts. In a network namespace of its own, a process shares the file
system with a systemd that would start the service elsewhere; there the caller has to run the agent
himself.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from meshnet.errors import MeshnetError, NotFound

SYSTEM_DIR = Path("/etc/systemd/system")
PACKAGED = "/usr/bin/meshnet"
"""What the units we ship start; replaced by where this program is."""
DOCKER = ("meshnet-docker.socket", "meshnet-docker.service")
"""Docker's driver: where it is called, and what is called."""
OURS = "# Installed by meshnet; `meshnet down --purge` takes it away.\n"
"""The first line of a unit that we installed, and not a package."""


def systemd_here() -> bool:
    """Say whether systemd runs this machine, in the network namespace that we are in."""
    if not Path("/run/systemd/system").is_dir():
        return False
    try:
        return Path("/proc/1/ns/net").readlink() == Path("/proc/self/ns/net").readlink()
    except OSError:
        return False


def unit_text(name: str, program: str) -> str:
    """Return a unit that we ship, made to start `program`."""
    for place in (files("meshnet") / "systemd", Path(__file__).parents[2] / "systemd"):
        unit = place / name
        if unit.is_file():
            return unit.read_text().replace(PACKAGED, program)
    raise NotFound(f"unit {name} is not part of this installation", "Run `meshnet agent` instead.")


def this_program() -> str:
    """Return where the running command is installed; our other programs are beside it."""
    return str(Path(shutil.which(sys.argv[0]) or sys.argv[0]).resolve())


def enable(name: str) -> bool:
    """Enable a unit and start it anew; install ours first if there is none. Say if it was."""
    is_new = install(name)
    _systemctl("enable", name)
    _systemctl("restart", name)
    return is_new


def listen(socket: str, service: str) -> None:
    """Have systemd listen, now and at every boot, and start the service at the first call."""
    for name in (service, socket):
        install(name)
    _systemctl("enable", "--now", socket)


def install(name: str) -> bool:
    """Install a unit of ours if systemd has none of that name. Say if it was so."""
    if is_known(name):
        return False
    (SYSTEM_DIR / name).write_text(OURS + unit_text(name, this_program()))
    _systemctl("daemon-reload")
    return True


def make_users(name: str) -> None:
    """Make the users and groups that one of our files declares (systemd-sysusers(8))."""
    text = unit_text(name, this_program())
    _run(["systemd-sysusers", "-"], "systemd-sysusers", text)


def stop(name: str) -> None:
    """Stop a unit; it starts again at the next boot if it is enabled."""
    _systemctl("stop", name)


def disable(name: str) -> None:
    """Stop a unit for good, and remove it if we installed it."""
    _systemctl("disable", "--now", name)
    unit = SYSTEM_DIR / name
    if unit.is_file() and unit.read_text().startswith(OURS):
        unit.unlink()
        _systemctl("daemon-reload")


def is_known(name: str) -> bool:
    """Say whether systemd has such a unit."""
    known = subprocess.run(["systemctl", "cat", name], capture_output=True, check=False)
    return known.returncode == 0


def _systemctl(*words: str) -> None:
    _run(["systemctl", *words], words[-1])


def _run(command: list[str], subject: str, text: str | None = None) -> None:
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        said = result.stderr.strip() or f"exit code {result.returncode}"
        raise MeshnetError(
            f"{' '.join(command)} failed: {said}", f"See why: `journalctl -u {subject} -n 20`."
        )
