"""Shell. A demo that is kept: the process that holds it, and the way in.

The demo plays in a child of the process that was started. When it is to be kept, the child tells
its parent so, which returns to the shell, and waits for SIGTERM as a daemon. A note in .make/ says
which process it is and how each place is entered; the lab ends with that process, however it ends.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab import Lab, wait_until

NOTE = Path(__file__).parents[2] / ".make" / "demo.json"
PROGRAMS = str(Path(sys.executable).parent)


@dataclass(frozen=True)
class Kept:
    """A demo that is running: its process, when that was started, and the places in it."""

    pid: int
    started: int
    places: dict[str, int]

    @property
    def alive(self) -> bool:
        return _started(self.pid) == self.started

    @classmethod
    def found(cls) -> Kept | None:
        """Return the demo that is kept, if one is."""
        if not NOTE.exists():
            return None
        kept = cls(**json.loads(NOTE.read_text()))
        if kept.alive:
            return kept
        NOTE.unlink(missing_ok=True)
        return None


def keep(lab: Lab) -> None:
    """Note down that this process keeps `lab`, then wait to be told to end."""
    places = {place.name: place.pid for place in lab.places}
    NOTE.parent.mkdir(exist_ok=True)
    NOTE.write_text(json.dumps(asdict(Kept(os.getpid(), _started(os.getpid()), places))))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    NOTE.unlink(missing_ok=True)


def end() -> str:
    """End the demo that is kept; return a sentence about it."""
    kept = Kept.found()
    if kept is None:
        return "No demo is running."
    os.kill(kept.pid, signal.SIGTERM)
    wait_until(lambda: not kept.alive, 30, "the demo has ended")
    return "The demo has ended; nothing of it is left."


def enter(name: str) -> int:
    """Open a shell at a place of the demo that is kept; return its exit status."""
    kept = Kept.found()
    if kept is None:
        print("No demo is running: start one with `make demo KEEP=1`.", file=sys.stderr)
        return 1
    matches = [place for place in kept.places if name in (place, place.rpartition(".")[2])]
    if not matches:
        print(f"There is no {name!r}; there are: {', '.join(kept.places)}", file=sys.stderr)
        return 1
    return _shell(matches[0], kept.places[matches[0]])


def _shell(name: str, holder: int) -> int:
    shell = os.environ.get("SHELL") or "/bin/sh"
    print(f"This is {name}. Try: meshnet status, dig web.mesh, curl http://web.mesh/")
    environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "PS1": f"{name} $ "}
    options = ["--norc"] if Path(shell).name == "bash" else []
    inside = ["nsenter", f"--target={holder}", "--mount", "--net", "--pid", "--", shell, *options]
    sys.stdout.flush()
    return os.spawnvpe(os.P_WAIT, "nsenter", inside, environment)


def how_to_enter() -> str:
    """Say what can be done with a demo that is kept."""
    return "\n".join(
        f"  {shlex.join(words):36} {what}"
        for words, what in (
            (["make", "demo-enter", "HOST=cloud-b1"], "a shell on that machine"),
            (["make", "demo-enter", "HOST=client"], "a shell in that container"),
            (["make", "demo-down"], "end it"),
        )
    )


def _started(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot; 0 when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[19]) if fields[0] != "Z" else 0
