"""Shell. Debian trixie as the root of a place on a host, for engines newer than the machine's own.

    trixie = Trixie(host)                its own files; network, processes and /run are the host's
    trixie.run("podman", …)

It is installed once into a directory of the user's cache (some 45 s and 500 MB, from the machine's
package sources) and used from there, below an overlay that ends with the place. What is mounted
below /run on either side is seen on both: so an agent outside finds the sockets and the network
namespaces of an engine inside, as on one machine.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.lab.hosts import Host
from tests.lab.place import Place
from tests.lab.spawn import CLONE_NEWNS

RELEASE = "trixie"
PACKAGES = (
    *("docker.io", "docker-cli", "docker-compose", "runc", "iptables", "nftables", "iproute2"),
    *("procps", "podman", "netavark", "aardvark-dns", "conmon", "busybox-static"),
)
LIMIT = 240
"""Seconds that its installation may take."""

ROOT = "/var/lib/trixie"
SETUP = f"""
mkdir -p {ROOT}/upper {ROOT}/work {ROOT}/root
mount -t overlay -o "lowerdir=$lower,upperdir={ROOT}/upper,workdir={ROOT}/work" overlay {ROOT}/root
cd {ROOT}/root
mkdir -p ".$directory"
for each in proc sys dev run; do mount --rbind /$each $each; done
pivot_root . .
umount --lazy .
"""

BRIDGE = """#!/bin/sh
exec {} {} "$@"
"""


@cache
def directory() -> Path:
    """Return where its files lie; installs them first where they are not there yet.

    RuntimeError says why they cannot be had.
    """
    target = _cache() / f"{RELEASE}-{hashlib.sha256(repr(PACKAGES).encode()).hexdigest()[:12]}"
    if target.exists():
        return target
    if not shutil.which("mmdebstrap"):
        raise RuntimeError("not installed: mmdebstrap")
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        _install(aside)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "meshnet-tests"


def _install(target: Path) -> None:
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    try:
        result = subprocess.run(
            [*command, RELEASE, str(target)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"mmdebstrap has not made {RELEASE} within {LIMIT} s") from error
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise RuntimeError(f"mmdebstrap cannot make {RELEASE}: {last}")


@cache
def missing() -> str:
    """Say why it cannot be had, as a reason to skip; '' when it is there."""
    try:
        directory()
    except (RuntimeError, OSError) as error:
        return str(error)
    return ""


class Trixie(Place):
    """A host's processes with trixie's files."""

    def __init__(self, host: Host) -> None:
        host.run("mount", "--make-shared", "/run")
        words = {"lower": str(directory()), "directory": str(Path.cwd())}
        names = "\n".join(f"{name}={shlex.quote(word)}" for name, word in words.items())
        super().__init__(f"{host.name}.{RELEASE}", host.where, f"{names}\n{SETUP}", CLONE_NEWNS)
        self.host = host
        host.guests.append(self)

    def bridge(self, path: str, program: str) -> None:
        """Make `path` here run a program of the host's, which sees the host's files."""
        enter = f"nsenter --mount --target {self.host.inner_pid} --"
        self.run(
            "install", "-D", "-m", "755", "/dev/stdin", path, input=BRIDGE.format(enter, program)
        )

    def close(self) -> None:
        """End what was started here; the network namespace is the host's and stays."""
        for daemon in self.daemons:
            daemon.kill()
        self.daemons.clear()
        self.end()
