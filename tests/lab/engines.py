"""Shell. Real container engines on the hosts of a lab, as they come with the distribution.

    podman = Podman(host, plugins)          its CNI backend, with a list of plugins as one network

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

IMAGE = "box:1"
CNI_DIRECTORY = "/usr/lib/cni"
PLUGIN = "meshnet-cni"

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
