"""Shell. containerd on a host of a lab: its own tool, and the interface that a kubelet speaks.

    containerd = Containerd(host)
    containerd.ctr("run", "--rm", "--cni", "--rootfs", ROOT, "t1", "/bin/ip", "addr")
    pod = containerd.cri("RunPodSandbox", {1: {1: {1: "web-1", 2: "uid", 3: "default"}}})[1]

CRI is gRPC. Of its messages only a few fields are needed here, so they are given by their numbers
in api.proto of `runtime.v1`, and read back the same way: no generated code. The plugin comes to
its place by `meshnet cni setup`.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.lab.engines import BUSYBOX
from tests.lab.hosts import Host
from tests.lab.mesh import meshnet
from tests.lab.waiting import wait_until

SOCKET = "/run/containerd/containerd.sock"
ROOT = "/run/image"
POD_IMAGE = "localhost/box:1"

OWN = """
for directory in etc opt; do
    mkdir -p /run/own/$directory/upper /run/own/$directory/work
    own=upperdir=/run/own/$directory/upper,workdir=/run/own/$directory/work
    mount -t overlay -o lowerdir=/$directory,$own overlay /$directory
done
rm -rf /etc/cni /opt/cni
mkdir -p /opt/cni/bin
ln -s /usr/lib/cni/loopback /opt/cni/bin/loopback
"""
"""Containerd's tool looks in fixed places, so the host gets its own version of them."""

CONFIG = f"""
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{POD_IMAGE}"
  disable_tcp_service = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
"""

Fields = dict[int, Any]
"""A message: number of the field → text, bytes, number, message, or a list of these."""


class Containerd:
    """A containerd of the host's own, with the plugin and one network configuration."""

    def __init__(self, host: Host, network: str = "default") -> None:
        self.host = host
        host.shell(f"{OWN}\n{BUSYBOX}")
        meshnet(host, "cni", "setup", "--conf-dir", "/etc/cni/net.d", "--network", network)
        host.file("/run/containerd.toml").write_text(CONFIG)
        self.daemon = host.start("containerd", "/usr/bin/containerd", "-c", "/run/containerd.toml")
        wait_until(
            lambda: host.works("ctr", "version"),
            30,
            lambda: f"a containerd that answers\n{self.daemon.tail(10)}",
        )
        image = docker_archive(host.file("/run/image.tar"), POD_IMAGE)
        host.file("/run/pod.tar").write_bytes(image)
        self.ctr("-n", "k8s.io", "images", "import", "--snapshotter", "native", "/run/pod.tar")

    def ctr(self, *words: str) -> str:
        """Run containerd's own tool; return what it prints."""
        return self.host.output("ctr", *words, timeout=60)

    def cri(self, method: str, request: Fields) -> dict[int, Any]:
        """Call the CRI; return the reply's fields, the last of each number."""
        command = (sys.executable, "-m", "tests.lab.cri", SOCKET, method)
        return decode(bytes.fromhex(self.host.run(*command, input=encode(request).hex()).stdout))


def docker_archive(layer: Path, name: str) -> bytes:
    """Return an image of one layer, as `docker save` writes it; it sleeps when started."""
    data = layer.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "2147483647"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {
        "config.json": json.dumps(config).encode(),
        "manifest.json": json.dumps(manifest).encode(),
        "layer.tar": data,
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def encode(message: Mapping[int, Any]) -> bytes:
    """Return a message on the wire (protobuf's encoding, wire types 0 and 2)."""
    parts = []
    for number, value in message.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int):
                parts.append(varint(number << 3) + varint(one))
                continue
            data = one.encode() if isinstance(one, str) else one
            data = encode(data) if isinstance(data, Mapping) else data
            parts.append(varint(number << 3 | 2) + varint(len(data)) + data)
    return b"".join(parts)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def decode(data: bytes) -> dict[int, Any]:
    """Return a message's fields; text and messages in it are left as bytes."""
    fields: dict[int, Any] = {}
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        value, at = _read_varint(data, at)
        if key & 7 == 2:
            fields[key >> 3], at = data[at : at + value], at + value
        else:
            fields[key >> 3] = value
    return fields


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at
