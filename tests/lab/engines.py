"""Shell. Real container engines on the hosts of a lab, as they come with the distribution.

    podman = Podman(host, plugins)          its CNI backend, with a list of plugins as one network
    docker = Docker(host, dns)              a dockerd of the host's own, and our driver

Images are made on the spot from a static busybox, so nothing is fetched. All an engine keeps lies
in the host's own /run and /var/lib and ends with it; only the empty parent of its cgroups stays,
which other podmans on the machine share.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab.hosts import Host
from tests.lab.mesh import PROGRAM
from tests.lab.place import Daemon
from tests.lab.waiting import wait_until

IMAGE = "box:1"
CNI_DIRECTORY = "/usr/lib/cni"
PLUGIN = "meshnet-cni"
DRIVER = "meshnet-docker"
DRIVER_SOCKET = "/run/docker/plugins/meshnet.sock"

PODMAN_CONF = """
[containers]
default_ulimits = ["nofile=4096:8192", "nproc=4096:8192"]
[engine]
runtime = "runc"
events_logger = "file"
cgroup_manager = "cgroupfs"
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


class Podman:
    """podman on a host, with its CNI backend and one network of ours."""

    def __init__(self, host: Host, plugins: Sequence[dict[str, Any]]) -> None:
        self.host = host
        network = {"cniVersion": "1.0.0", "name": "meshed", "plugins": list(plugins)}
        host.shell(f"mkdir -p /run/cni/bin /run/cni/net.d\n{BUSYBOX}")
        host.file("/run/cni/net.d/meshed.conflist").write_text(json.dumps(network))
        host.file("/run/containers.conf").write_text(PODMAN_CONF)
        host.run("ln", "-s", str(Path(PROGRAM).with_name(PLUGIN)), f"/run/cni/bin/{PLUGIN}")
        self("import", "/run/image.tar", f"localhost/{IMAGE}")

    def __call__(self, *words: str, check: bool = True) -> str:
        """Run podman; return what it prints."""
        places = ("--root=/var/lib/podman", "--runroot=/run/podman", "--tmpdir=/run/podman-tmp")
        env = {"CONTAINERS_CONF": "/run/containers.conf", "PATH": os.environ["PATH"]}
        options = (*places, "--storage-driver=vfs")
        return self.host.run("podman", *options, *words, env=env, timeout=60, check=check).stdout

    def run(self, name: str, *command: str, options: Sequence[str] = ()) -> str:
        """Start a container on our network and leave it running."""
        words = ("run", "-d", "--name", name, "--network", "meshed", *options)
        return self(*words, f"localhost/{IMAGE}", *command)


class Docker:
    """A dockerd of a host's own, with our driver beside it. `dns` is what its containers ask."""

    def __init__(self, host: Host, dns: str) -> None:
        self.host = host
        self.plugin: Daemon | None = None
        self.daemon: Daemon | None = None
        host.shell(f"mkdir -p /run/docker\n{BUSYBOX}")
        settings = {"dns": [dns], "dns-search": ["mesh"], "storage-driver": "vfs"}
        host.file("/run/daemon.json").write_text(json.dumps(settings))
        self.start_plugin()
        self.start()
        self("import", "/run/image.tar", IMAGE)

    def start_plugin(self, *before: str) -> None:
        """Start the driver, behind the words of another program if there are any."""
        socket = self.host.file(DRIVER_SOCKET)
        socket.unlink(missing_ok=True)
        self.plugin = self.host.start("plugin", *before, str(Path(PROGRAM).with_name(DRIVER)))
        wait_until(socket.exists, 10, "the driver listens")

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
