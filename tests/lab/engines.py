"""Shell. Real container engines on the hosts of a lab, as they come with the distribution.

    docker = Dockerd(host)                  a dockerd of the host's own
    docker = Docker(host, dns)              with our driver beside it
    podman = Podman(host)                   and its service, with the API
    podman = CniPodman(host, plugins)       its CNI backend, with a list of plugins as one network

Images are made on the spot from a static busybox, so nothing is fetched. All an engine keeps lies
in the host's own /run and /var/lib and ends with it; only the empty parent of its cgroups stays,
which other podmans on the machine share.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab.mesh import PROGRAM
from tests.lab.place import Daemon, Place
from tests.lab.waiting import wait_until

IMAGE = "box:1"
CNI_DIRECTORY = "/usr/lib/cni"
PLUGIN = "meshnet-cni"
DRIVER = "meshnet-docker"
DRIVER_SOCKET = "/run/docker/plugins/meshnet.sock"
PODMAN_SOCKET = "/run/podman/podman.sock"

PODMAN_CONF = """
[containers]
default_ulimits = ["nofile=4096:8192", "nproc=4096:8192"]
[engine]
runtime = "runc"
events_logger = "file"
cgroup_manager = "cgroupfs"
"""
CNI_CONF = """
[network]
network_backend = "cni"
cni_plugin_dirs = ["/run/cni/bin", "/usr/lib/cni"]
network_config_dir = "/run/cni/net.d"
"""

BUSYBOX = """
mkdir -p /run/image/bin /run/image/etc /run/image/tmp
cp "$(command -v busybox)" /run/image/bin/busybox
for applet in $(/run/image/bin/busybox --list); do
    [ "$applet" = busybox ] || ln -sf busybox "/run/image/bin/$applet"
done
echo root:x:0:0:root:/:/bin/sh >/run/image/etc/passwd
tar -C /run/image -cf /run/image.tar .
"""


def missing(*programs: str) -> str:
    """Say which of the programs this machine has not, as a reason to skip; '' when none."""
    absent = [name for name in programs if not shutil.which(name)]
    return f"not installed: {', '.join(absent)}" if absent else ""


def without_cni() -> str:
    """Say that podman has no CNI backend, as a reason to skip: podman 5 has dropped it."""
    said = subprocess.run(["podman", "--version"], capture_output=True, text=True, check=True)
    version = said.stdout.split()[-1]
    return f"podman {version} has no CNI backend" if int(version.split(".")[0]) >= 5 else ""


class Podman:
    """podman at a place. `conf` is what its configuration holds beside what the lab needs."""

    def __init__(self, place: Place, conf: str = "") -> None:
        self.host = place
        self.service: Daemon | None = None
        place.shell(BUSYBOX)
        place.file("/run/containers.conf").write_text(PODMAN_CONF + conf)
        self("import", "/run/image.tar", f"localhost/{IMAGE}")

    def words(self, *words: str) -> tuple[str, ...]:
        """Return the command line of podman with these words."""
        places = ("--root=/var/lib/podman", "--runroot=/run/podman", "--tmpdir=/run/podman-tmp")
        return ("podman", *places, "--storage-driver=vfs", *words)

    @property
    def environment(self) -> dict[str, str]:
        return {"CONTAINERS_CONF": "/run/containers.conf", "PATH": os.environ["PATH"]}

    def __call__(self, *words: str, check: bool = True) -> str:
        """Run podman; return what it prints."""
        command, env = self.words(*words), self.environment
        return self.host.run(*command, env=env, timeout=60, check=check).stdout

    def start(self) -> None:
        """Start the service that speaks the API."""
        words = self.words("system", "service", "--time=0", f"unix://{PODMAN_SOCKET}")
        self.host.file(PODMAN_SOCKET).unlink(missing_ok=True)
        self.service = self.host.start("podman", *words, env=self.environment)
        wait_until(self.host.file(PODMAN_SOCKET).exists, 20, "podman's service listens")

    def run(self, name: str, network: str, *command: str, options: Sequence[str] = ()) -> str:
        """Start a container and leave it running."""
        words = ("run", "-d", "--name", name, "--network", network, *options)
        return self(*words, f"localhost/{IMAGE}", *command).strip()


class CniPodman(Podman):
    """podman with its CNI backend and one network of ours, `meshed`."""

    def __init__(self, place: Place, plugins: Sequence[dict[str, Any]]) -> None:
        network = {"cniVersion": "1.0.0", "name": "meshed", "plugins": list(plugins)}
        place.shell("mkdir -p /run/cni/bin /run/cni/net.d")
        place.file("/run/cni/net.d/meshed.conflist").write_text(json.dumps(network))
        place.run("ln", "-s", str(Path(PROGRAM).with_name(PLUGIN)), f"/run/cni/bin/{PLUGIN}")
        super().__init__(place, CNI_CONF)


class Dockerd:
    """A dockerd at a place. `settings` go into its daemon.json."""

    def __init__(self, place: Place, **settings: object) -> None:
        self.host = place
        self.daemon: Daemon | None = None
        place.shell(f"mkdir -p /run/docker\n{BUSYBOX}")
        said = {"storage-driver": "vfs", **settings}
        place.file("/run/daemon.json").write_text(json.dumps(said))
        self.start()
        self("import", "/run/image.tar", IMAGE)

    def start(self) -> None:
        """Start dockerd and wait until it answers."""
        options = ("--config-file=/run/daemon.json", "--pidfile=/run/docker.pid")
        self.daemon = self.host.start("dockerd", "/usr/sbin/dockerd", *options)
        daemon = self.daemon
        wait_until(
            lambda: self.host.works("/usr/bin/docker", "version"),
            30,
            lambda: f"a dockerd that answers\n{daemon.tail(10)}",
        )

    def __call__(self, *words: str, check: bool = True) -> str:
        """Run docker; return what it prints."""
        return self.host.run("/usr/bin/docker", *words, timeout=60, check=check).stdout

    def run(self, name: str, network: str, *command: str, options: Sequence[str] = ()) -> str:
        """Start a container and leave it running."""
        words = ("run", "-d", "--name", name, "--network", network, *options)
        return self(*words, IMAGE, *command).strip()


class Docker(Dockerd):
    """A dockerd with our driver beside it, which is at `beside` when dockerd is elsewhere.

    `dns` is what its containers ask.
    """

    def __init__(self, place: Place, dns: str, beside: Place | None = None) -> None:
        self.beside = beside or place
        self.plugin: Daemon | None = None
        self.start_plugin()
        super().__init__(place, dns=[dns], **{"dns-search": ["mesh"]})

    def start_plugin(self, *before: str) -> None:
        """Start the driver, behind the words of another program if there are any."""
        socket = self.beside.file(DRIVER_SOCKET)
        socket.unlink(missing_ok=True)
        self.plugin = self.beside.start("plugin", *before, str(Path(PROGRAM).with_name(DRIVER)))
        wait_until(socket.exists, 10, "the driver listens")
