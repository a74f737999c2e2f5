"""Shell. A place where commands run: a mount and a network namespace, held by a process.

`run` waits for the command, `start` leaves it running as a Daemon with a log. `file` is the path
by which we, on the outside, reach a file of the place.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.lab.spawn import CLONE_NEWNET, CLONE_NEWNS, Where, spawn
from tests.lab.waiting import wait_until

LOGS = "/run/log"
"""Where a place keeps the logs of its daemons; /run is its own."""


class CommandFailed(AssertionError):
    """A command that did not end with status 0, with all it said."""

    def __init__(self, place: str, command: tuple[str, ...], status: int, output: str) -> None:
        super().__init__(f"{place}: {shlex.join(command)} ended with {status}\n{output}")
        self.place = place
        self.status = status
        self.output = output


class Daemon:
    """A process left running in a place. Its output goes to a log in the place."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.text().splitlines()[-lines:])

    def send(self, number: signal.Signals) -> None:
        if self.running:
            self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once, as a power cut would (SIGKILL)."""
        self.send(signal.SIGKILL)
        self.process.wait(10)

    def stop(self, limit: float = 20, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end and return its status; it is an error not to end within `limit`."""
        self.send(number)
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"{self.name} did not end within {limit:g} s\n{self.tail()}"
            ) from None


class Place:
    """Namespaces with a name. Made by `hosts`; ends with `close` or with the lab."""

    def __init__(
        self, name: str, parent: Where, setup: str, fresh: int = CLONE_NEWNS | CLONE_NEWNET
    ) -> None:
        """Make fresh namespaces below `parent` and run `setup`, a shell script, in them."""
        self.name = name
        self.daemons: list[Daemon] = []
        self._hold(Where(parent.pids, parent.inside, fresh), setup)

    def _hold(self, where: Where, setup: str) -> None:
        script = f"{setup}\necho ready\nexec sleep infinity"
        self._holder = spawn(
            where,
            ["sh", "-euc", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        pipe = self._holder.stdout
        assert pipe is not None
        said = pipe.readline()
        if said != b"ready\n":
            raise CommandFailed(self.name, (setup,), 1, (said + pipe.read()).decode())
        pipe.close()
        self.where = Where(where.pids, os.pidfd_open(self._holder.pid))
        self.netns = _inode(self._holder.pid)

    @property
    def pid(self) -> int:
        """The holder as the machine counts it."""
        return self._holder.pid

    @property
    def inner_pid(self) -> int:
        """The holder as processes in the lab count it, for `--pid` and /proc/PID/ns/net."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
        return int(line.split()[-1])

    @property
    def netns_path(self) -> str:
        """The network namespace's path, as seen in the lab."""
        return f"/proc/{self.inner_pid}/ns/net"

    def file(self, path: str) -> Path:
        """Return where we find the place's file `path`, an absolute path, from outside."""
        return Path(f"/proc/{self.pid}/root{path}")

    def run(
        self,
        *command: str,
        check: bool = True,
        timeout: float = 30,
        input: str = "",
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; raise CommandFailed unless it ends with 0 or `check` is off."""
        process = spawn(
            self.where,
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
        )
        try:
            out, err = (said.decode(errors="replace") for said in _finish(process, input, timeout))
        except subprocess.TimeoutExpired:
            raise CommandFailed(self.name, command, -9, f"no end within {timeout:g} s") from None
        if check and process.returncode:
            raise CommandFailed(self.name, command, process.returncode, out + err)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def output(self, *command: str, timeout: float = 30) -> str:
        """Return what a command that must succeed writes to its standard output."""
        return self.run(*command, timeout=timeout).stdout

    def transcript(self, *command: str, timeout: float = 60) -> tuple[int, str]:
        """Run a command; return its status and all it wrote, in the order it was written."""
        process = spawn(self.where, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text, _ = _finish(process, "", timeout)
        return process.returncode, text.decode(errors="replace")

    def works(self, *command: str, timeout: float = 30) -> bool:
        """Say whether a command ends with 0."""
        return self.run(*command, check=False, timeout=timeout).returncode == 0

    def shell(self, script: str, timeout: float = 30) -> str:
        """Run a shell script that must succeed; return its standard output."""
        return self.output("sh", "-euc", script, timeout=timeout)

    def ip(self, *lines: str) -> None:
        """Apply commands of `ip`, in one process."""
        self.run("ip", "-batch", "-", input="\n".join(lines) + "\n")

    def start(self, name: str, *command: str, env: Mapping[str, str] | None = None) -> Daemon:
        """Start a command and leave it running; its output is appended to /run/log/NAME.log."""
        log = self.file(f"{LOGS}/{name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = spawn(self.where, command, stdout=output, stderr=output, env=env)
        daemon = Daemon(name, process, log)
        self.daemons.append(daemon)
        return daemon

    def processes(self) -> list[int]:
        """Return the pids, as the machine counts them, of all in this network namespace."""
        return [pid for pid in all_processes() if _inode(pid) == self.netns]

    def close(self) -> None:
        """End every process in the network namespace, the holder last."""
        self.kill_all()
        self.end()

    def end(self) -> None:
        """End the holder."""
        self._holder.kill()
        self._holder.wait(10)
        os.close(self.where.inside)

    def kill_all(self) -> None:
        """Kill every process in the network namespace except the holder, and wait for the end."""

        def gone() -> bool:
            """Kill again and again: a daemon may start its helper anew before its own turn."""
            others = [pid for pid in self.processes() if pid != self.pid]
            for pid in others:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not others

        wait_until(gone, 10, f"processes of {self.name} end", pause=0.01)
        for daemon in self.daemons:
            daemon.process.wait(10)
        self.daemons.clear()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"


def _finish(process: subprocess.Popen[bytes], text: str, timeout: float) -> tuple[bytes, bytes]:
    try:
        return process.communicate(text.encode() or None, timeout)
    except BaseException:
        process.kill()
        process.communicate()
        raise


def _inode(pid: int) -> int:
    """Return the network namespace of a process; 0 when it has ended."""
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:
        return 0


def all_processes() -> list[int]:
    """Return the pids of all processes of the machine."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
