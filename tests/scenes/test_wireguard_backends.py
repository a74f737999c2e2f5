"""What one WireGuard backend does and the other cannot: daemons, kernels without, free ports."""

from __future__ import annotations

import errno
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from meshnet.errors import Conflict, Unavailable
from meshnet.linux.backend import find_carrier, pick_backend
from meshnet.linux.wireguard import (
    find_free_port,
    is_port_free,
)
from meshnet.linux.wireguard_base import RealWireGuard
from meshnet.linux.wireguard_link import find_link
from meshnet.linux.wireguard_netlink import KernelWireGuard
from meshnet.linux.wireguard_uapi import SOCKETS, WireGuardGo
from meshnet.model.addresses import Endpoint
from meshnet.plan.operations import PeerChange
from tests.lab.waiting import seconds_until
from tests.lab.wireguard_hosts import (
    ANN,
    DEVICE,
    MTU,
    OTHER,
    OURS,
    RealHost,
    make_backend,
    needs_root,
    own_namespaces,
    read,
    run,
    show,
)

PORT = 53820
REKEY_SECONDS = 5.0
"""What WireGuard waits after a handshake that was not answered."""

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def namespaces() -> Iterator[None]:
    needs_root()
    with own_namespaces():
        yield


def test_somebody_elses_wireguard_device_is_never_touched() -> None:
    backend = pick_backend()
    assert isinstance(backend, RealWireGuard)
    backend._make(DEVICE)
    backend._set_device(DEVICE, OURS, PORT, 0)

    with pytest.raises(Conflict, match="not ours"):
        backend.create(DEVICE, MTU)
    with pytest.raises(Conflict, match="not ours"):
        backend.read(DEVICE)
    with pytest.raises(Conflict, match="not ours"):
        backend.remove(DEVICE)

    assert backend._fetch(DEVICE).private_key == OURS
    backend._destroy(DEVICE)


def test_the_backend_is_the_kernels_where_it_has_one_and_is_named() -> None:
    backend = pick_backend()

    if KernelWireGuard.is_supported():
        assert backend.backend == "kernel"
    else:
        name, _, version = backend.backend.partition(" ")
        assert name == "wireguard-go" and version[0].isdigit()
        with pytest.raises(Unavailable, match="the kernel has no WireGuard"):
            KernelWireGuard().create(DEVICE, MTU)


def test_what_the_kernel_can_remove_singly_is_found_out_by_trying() -> None:
    backend = make_backend("kernel")
    backend.create(DEVICE, MTU)
    prefix = frozenset({ip_network("10.1.0.0/16")})
    backend.change_peers(DEVICE, [PeerChange(ANN.public, add=prefix)])

    backend.change_peers(DEVICE, [PeerChange(ANN.public, drop=prefix)])

    major, minor = map(int, platform.release().split("-")[0].split(".")[:2])
    assert backend._removes_singly is ((major, minor) >= (6, 16))
    assert read(backend).peers[ANN.public].allowed_ips == frozenset()
    backend.remove(DEVICE)


@pytest.mark.kernel
def test_without_the_right_to_it_every_step_is_refused_with_eperm() -> None:
    backend = make_backend("kernel")
    backend.create(DEVICE, MTU)
    script = (
        "from meshnet.errors import KernelRefused\n"
        "from meshnet.linux.wireguard_netlink import KernelWireGuard\n"
        "from meshnet.plan.operations import PeerChange\n"
        "from tests.lab.wireguard_hosts import ANN, OURS\n"
        f"wg, name = KernelWireGuard(), {DEVICE!r}\n"
        f"steps = [lambda: wg.read(name), lambda: wg.configure(name, OURS, {PORT}, 0),\n"
        "    lambda: wg.change_peers(name, [PeerChange(ANN.public)]),\n"
        f"    lambda: wg.create('wgc9', {MTU}), lambda: wg.remove(name)]\n"
        "for step in steps:\n"
        "    try:\n"
        "        print(step())\n"
        "    except KernelRefused as error:\n"
        "        print(error.errno)\n"
    )
    without = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]

    said = subprocess.run(
        [*without, sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert said.stdout.split() == [str(errno.EPERM)] * 5, said.stdout + said.stderr
    backend.remove(DEVICE)


def test_wireguard_go_outlives_the_agent_that_started_it() -> None:
    backend = make_backend("wireguard-go")
    script = (
        "import os, signal\n"
        "from meshnet.linux.wireguard_uapi import WireGuardGo\n"
        f"WireGuardGo().create({DEVICE!r}, {MTU})\n"
        "os.killpg(0, signal.SIGKILL)\n"
    )
    agent = subprocess.run([sys.executable, "-c", script], start_new_session=True, check=False)

    backend.configure(DEVICE, OURS, PORT, 0)
    adopted = show(read(backend))
    backend.remove(DEVICE)

    assert agent.returncode == -signal.SIGKILL
    assert adopted == "device us port 53820"
    assert find_link(DEVICE) is None


def test_a_handshake_that_wireguard_go_began_to_nowhere_keeps_no_other_back() -> None:
    host = RealHost(make_backend("wireguard-go"))
    for name, key, port in ((DEVICE, OURS, PORT), (OTHER, ANN, PORT + 7)):
        host.wireguard.create(name, MTU)
        host.wireguard.configure(name, key, port, 0)
        host.set_up(name)
    host.set_up("lo")
    host.wireguard.change_peers(OTHER, [PeerChange(OURS.public)])
    # A keepalive is due, so there is something to send, and nowhere to send it to.
    host.wireguard.change_peers(DEVICE, [PeerChange(ANN.public, keepalive=25)])

    there = Endpoint.parse(f"127.0.0.1:{PORT + 7}")
    host.wireguard.change_peers(DEVICE, [PeerChange(ANN.public, endpoint=there)])

    took = seconds_until(lambda: read(host.wireguard).status[ANN.public].received, 20, "an answer")
    host.close()
    assert took < REKEY_SECONDS - 1


def test_a_stale_socket_of_a_killed_daemon_is_no_obstacle() -> None:
    backend = make_backend("wireguard-go")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(SOCKETS / f"{DEVICE}.sock"))

    before = backend.read(DEVICE)
    backend.create(DEVICE, MTU)

    assert before is None
    assert read(backend).peers == {}
    backend.remove(DEVICE)


def test_a_missing_wireguard_go_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(Unavailable) as naming:
        assert WireGuardGo().backend
    with pytest.raises(Unavailable) as making:
        WireGuardGo().create(DEVICE, MTU)

    assert naming.value.hint == making.value.hint == "apt install wireguard-go"


def test_a_device_is_read_and_removed_without_wireguard_go_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_backend("wireguard-go").create(DEVICE, MTU)
    monkeypatch.setenv("PATH", "/nonexistent")

    backend = find_carrier(DEVICE)
    read(backend, DEVICE)
    backend.remove(DEVICE)

    assert find_link(DEVICE) is None


def test_a_device_of_ours_stays_with_the_backend_that_carries_it() -> None:
    make_backend("wireguard-go").create(DEVICE, MTU)

    backend = pick_backend(DEVICE)

    assert backend.backend.startswith("wireguard-go ")
    backend.remove(DEVICE)


def test_a_foreign_tun_device_without_a_daemon_is_never_touched() -> None:
    run("ip", "tuntap", "add", DEVICE, "mode", "tun")
    backend = make_backend("wireguard-go")

    with pytest.raises(Conflict, match="not ours"):
        backend.read(DEVICE)
    with pytest.raises(Conflict, match="not ours"):
        backend.remove(DEVICE)

    assert find_link(DEVICE) is not None


def test_a_daemon_that_was_killed_is_replaced_by_the_next_create() -> None:
    backend = make_backend("wireguard-go")
    backend.create(DEVICE, MTU)
    os.kill(daemon_pid(DEVICE), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while find_link(DEVICE) is not None and time.monotonic() < deadline:
        time.sleep(0.01)

    gone = backend.read(DEVICE)
    backend.create(DEVICE, MTU)
    backend.configure(DEVICE, OURS, PORT, 0)

    assert gone is None
    assert show(read(backend)) == "device us port 53820"
    backend.remove(DEVICE)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_free_port_is_the_first_that_neither_family_holds(family: socket.AddressFamily) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as holder:
        holder.bind(("", PORT))

        assert not is_port_free(PORT)
        assert find_free_port(PORT) == PORT + 1
    assert find_free_port(PORT) == PORT


def daemon_pid(device: str) -> int:
    """Find the daemon that runs in our own mount namespace for `device`."""
    ours = Path("/proc/self/ns/mnt").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            home = (process / "ns/mnt").readlink()
        except OSError:
            continue
        if home == ours and words[1:2] == [device.encode()]:
            return int(process.name)
    raise AssertionError(f"no daemon for {device}")
