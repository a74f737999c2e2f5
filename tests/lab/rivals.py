"""Other overlay networks between two hosts of a lab, as their documentation sets them up.

Each function returns the second host's address in the overlay. What they write lies in the hosts'
own /run and ends with them.
"""

from __future__ import annotations

import json

from tests.lab.engines import Dockerd
from tests.lab.hosts import Host

NEBULA, TINC = "/run/nebula", "/run/tinc"
ANY = [{"port": "any", "proto": "any", "host": "any"}]


def nebula(a: Host, b: Host) -> str:
    """Tunnels of Nebula, a being the lighthouse."""
    signed = "\n".join(
        f"nebula-cert sign -name {host.name} -ip 10.94.0.{number}/24"
        for number, host in enumerate((a, b), 1)
    )
    a.shell(f"mkdir {NEBULA}\ncd {NEBULA}\nnebula-cert ca -name bench\n{signed}")
    b.run("mkdir", NEBULA)
    for name in ("ca.crt", f"{b.name}.crt", f"{b.name}.key"):
        b.file(f"{NEBULA}/{name}").write_bytes(a.file(f"{NEBULA}/{name}").read_bytes())
    for host in (a, b):
        settings = _nebula_settings(host, a, b)
        host.file(f"{NEBULA}/settings.yml").write_text(json.dumps(settings))
        host.start("nebula", "nebula", "-config", f"{NEBULA}/settings.yml")
    return "10.94.0.2"


def _nebula_settings(host: Host, a: Host, b: Host) -> dict[str, object]:
    return {
        "pki": {
            "ca": f"{NEBULA}/ca.crt",
            "cert": f"{NEBULA}/{host.name}.crt",
            "key": f"{NEBULA}/{host.name}.key",
        },
        "static_host_map": {
            "10.94.0.1": [f"{a.address4}:4242"],
            "10.94.0.2": [f"{b.address4}:4242"],
        },
        "lighthouse": {"am_lighthouse": host is a, "hosts": [] if host is a else ["10.94.0.1"]},
        "listen": {"host": "0.0.0.0", "port": 4242},
        "tun": {"dev": "nebula0", "mtu": 1300},
        "firewall": {"outbound": ANY, "inbound": ANY},
    }


def tinc(a: Host, b: Host) -> str:
    """Tunnels of tinc in its router mode, MTU and ciphers as it chooses them."""
    pair = list(zip((a, b), (b, a), strict=True))
    for number, (host, other) in enumerate(pair, 1):
        host.run("mkdir", "-p", f"{TINC}/hosts")
        host.file(f"{TINC}/tinc.conf").write_text(
            f"Name = {host.name}\nConnectTo = {other.name}\nInterface = tinc0\nMode = router\n"
        )
        up = host.file(f"{TINC}/tinc-up")
        address = f"ip addr add 10.95.0.{number}/24 dev tinc0"
        up.write_text(f"#!/bin/sh\n{address}\nip link set tinc0 up\n")
        up.chmod(0o755)
        own = f"Address = {host.address4}\nSubnet = 10.95.0.{number}/32\n"
        host.file(f"{TINC}/hosts/{host.name}").write_text(own)
        host.run("tincd", "-c", TINC, "-K2048", input="\n\n")
    for host, other in pair:
        card = other.file(f"{TINC}/hosts/{other.name}").read_text()
        host.file(f"{TINC}/hosts/{other.name}").write_text(card)
    for host in (a, b):
        files = ("--pidfile=/run/tinc.pid", "--logfile=/run/tinc.log")
        host.start("tinc", "tincd", "-c", TINC, "-D", *files)
    return "10.95.0.2"


def swarm(a: Host, b: Host) -> tuple[str, tuple[int, int]]:
    """Swarm's overlay in clear between two dockerd; also the pids of a container on each."""
    first, second = Dockerd(a), Dockerd(b)
    first("swarm", "init", "--advertise-addr", a.address4)
    token = first("swarm", "join-token", "-q", "worker").strip()
    second("swarm", "join", "--token", token, "--advertise-addr", b.address4, a.address4)
    first("network", "create", "-d", "overlay", "--attachable", "bench")
    for docker in (first, second):
        docker.run("box", "bench", "/bin/sleep", "3600")
    pids = [int(docker("inspect", "-f", "{{.State.Pid}}", "box")) for docker in (first, second)]
    address = second("inspect", "-f", "{{.NetworkSettings.Networks.bench.IPAddress}}", "box")
    return address.strip(), (pids[0], pids[1])
