"""Shell. How nodes come to be: on IPv6 alone, beside others' sockets, with tokens good and bad."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from meshnet.errors import (
    MeshnetError,
    PinMismatch,
    TokenDamaged,
    TokenExpired,
    TokenRevoked,
    TokenTruncated,
    TokenUnknown,
    TokenUsedUp,
)
from meshnet.linux.wireguard_netlink import KernelWireGuard
from meshnet.wire.token import Token, read_token, write_token
from tests.lab import Host, Lab, wait_until
from tests.lab.mesh import PROGRAM, Mesh, meshnet
from tests.scenes.mesh_scenes import attached, can_ping

pytestmark = [pytest.mark.root, pytest.mark.slow]

PORT = 51820
SQUAT = f"""
import socket, signal
squatter = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
squatter.bind(("::", {PORT}))
print("here", flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with Lab("two nodes on IPv6 alone, a port that is taken") as lab:
        lab.subnet("six", "2001:db8:6::/64")
        mesh = Mesh(lab, lab.host("hub", "six"))
        mesh.start()
        mesh.join(lab.host("n1", "six"))
        crowded = lab.host("n2", "six")
        squatter = crowded.start("squatter", sys.executable, "-c", SQUAT)
        wait_until(lambda: "here" in squatter.text(), 10, "the port is taken")
        mesh.join(crowded, "--no-host")
        mesh.wait_until_whole()
        yield mesh


def test_an_underlay_of_ipv6_alone_carries_both_families(mesh: Mesh) -> None:
    here, there = mesh.nodes["n1"], mesh.nodes["n2"]
    assert [peer.endpoint[:6] for peer in here.peers()] == ["[2001:"]
    with attached(here, "c1") as a, attached(there, "c2") as b:
        for address, heads in ((b.address4, 28), (b.address6, 48)):
            wait_until(lambda: can_ping(a.container, address), 10, f"c1 reaches {address}")  # noqa: B023
            full = ("ping", "-n", "-M", "do", "-c2", "-i0.2", "-W2", "-s", str(a.given.mtu - heads))
            assert a.container.works(*full, address)


def test_a_port_that_is_taken_is_left_alone_and_the_next_one_is_published(mesh: Mesh) -> None:
    assert mesh.nodes["n2"].status().listen_port == PORT + 1
    assert [peer.endpoint.rpartition(":")[2] for peer in mesh.nodes["n1"].peers()] == [
        str(PORT + 1)
    ]
    assert all(daemon.running for daemon in mesh.nodes["n2"].host.daemons)


def test_a_host_is_on_network_default_unless_it_does_not_want_to(mesh: Mesh) -> None:
    wait_until(lambda: "mesh-default" in mesh.nodes["n1"].host.output("ip", "link"), 10, "n1 is")
    assert "mesh-default" not in mesh.nodes["n2"].host.output("ip", "link")


def test_a_namespace_is_attached_by_its_path_too(mesh: Mesh) -> None:
    node = mesh.nodes["n2"]
    box = node.host.container("c3")
    path = f"/proc/{box.inner_pid}/ns/net"
    given = json.loads(node.meshnet("attach", "--netns", path, "--name", "c3", "--json"))
    assert given["interface"] in box.output("ip", "-o", "link")
    assert can_ping(box, mesh.nodes["n1"].gateways()[0])
    node.meshnet("detach", "c3")
    assert given["interface"] not in box.output("ip", "-o", "link")
    node.host.remove(box)


def test_only_root_and_its_group_may_ask_the_agent_and_read_the_keys(mesh: Mesh) -> None:
    host = mesh.nodes["n1"].host
    for path in ("/run/meshnet/agent.sock", "/var/lib/meshnet/keys.json"):
        seen = host.file(path).stat()
        assert seen.st_uid == 0
        assert not stat.S_IMODE(seen.st_mode) & stat.S_IRWXO, path
    assert stat.S_IMODE(host.file("/var/lib/meshnet/keys.json").stat().st_mode) == 0o600


def test_an_agent_whose_run_directory_is_wiped_answers_there_again(mesh: Mesh) -> None:
    node = mesh.nodes["n1"]
    shutil.rmtree(node.host.file("/run/meshnet"))
    node.wait_until_it_answers(10)
    wait_until(node.host.file("/run/meshnet/dns.sock").exists, 5, "the DNS server is found again")
    assert node.dig("n2.mesh") == [mesh.nodes["n2"].address4]


# Tokens that are no good


def used_up(mesh: Mesh) -> str:
    text = mesh.coordinator.token("--uses", "1")
    mesh.leave(mesh.join(mesh.lab.host("once", "six"), token=text))
    return text


def revoked(mesh: Mesh) -> str:
    text = mesh.coordinator.token()
    for token in json.loads(meshnet(mesh.coordinator.host, "token", "list", "--json")):
        meshnet(mesh.coordinator.host, "token", "revoke", token["id"])
    return text


def damaged(mesh: Mesh) -> str:
    text = mesh.coordinator.token()
    return text[:40] + ("A" if text[40] != "A" else "B") + text[41:]


def other(mesh: Mesh, change: Callable[[Token], Token]) -> str:
    return write_token(change(read_token(mesh.coordinator.token())))


BAD: dict[type[MeshnetError], Callable[[Mesh], str]] = {
    TokenTruncated: lambda mesh: mesh.coordinator.token()[:-5],
    TokenDamaged: damaged,
    TokenUnknown: lambda mesh: other(mesh, lambda token: replace(token, secret=bytes(16))),
    TokenExpired: lambda mesh: mesh.coordinator.token("--ttl", "1s"),
    TokenRevoked: revoked,
    TokenUsedUp: used_up,
    PinMismatch: lambda mesh: other(mesh, lambda token: replace(token, pins=("ab" * 32,))),
}


@pytest.fixture(scope="module")
def newcomer(mesh: Mesh) -> Host:
    return mesh.lab.host("newcomer", "six")


@pytest.fixture(scope="module")
def said() -> dict[str, type[MeshnetError]]:
    """What was said so far, and to whom."""
    return {}


@pytest.mark.parametrize("kind", BAD, ids=lambda kind: kind.__name__)
def test_a_bad_token_gets_its_own_words_and_exit_code_and_leaves_no_node_behind(
    mesh: Mesh, newcomer: Host, said: dict[str, type[MeshnetError]], kind: type[MeshnetError]
) -> None:
    token = BAD[kind](mesh)
    if kind is TokenExpired:
        listed = ("token", "list", "--json")
        wait_until(
            lambda: '"expired"' in meshnet(mesh.coordinator.host, *listed), 10, "it is expired"
        )
    result = newcomer.run(PROGRAM, "join", "-", "--name", "x", input=token, check=False)
    assert result.returncode == kind.exit_code, result.stderr
    message, hint = result.stderr.strip().splitlines()[-2:]
    assert said.setdefault(message, kind) is kind
    assert hint
    assert not newcomer.file("/var/lib/meshnet/node.json").exists()


def test_a_machine_that_can_carry_no_tunnel_takes_no_use_of_a_token(
    mesh: Mesh, newcomer: Host
) -> None:
    if Path("/sys/module/wireguard").exists() or KernelWireGuard.is_supported():
        pytest.skip("this kernel has WireGuard")
    token = mesh.coordinator.token("--uses", "1")
    join = (PROGRAM, "join", "-", "--name", "x")
    refused = newcomer.run(*join, input=token, check=False, env={"PATH": "/var/empty"})
    assert refused.returncode == 6
    assert refused.stderr.splitlines()[-2:] == [
        "error: the kernel has no WireGuard and wireguard-go is not installed",
        "hint: apt install wireguard-go",
    ]
    assert not newcomer.file("/var/lib/meshnet/node.json").exists()
    assert "0 of 1" in meshnet(mesh.coordinator.host, "token", "list")


# Words to systemd


class Listener:
    """A socket such as systemd's, at a path on a host."""

    def __init__(self, host: Host) -> None:
        self.path = "/run/notify.sock"
        self._host = host
        self._words: list[str] = []

    def __enter__(self) -> Listener:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        path = self._host.file(self.path)
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def heard(self, word: str) -> bool:
        try:
            while True:
                self._words += self._socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            return word in self._words


@pytest.mark.parametrize("words", [("agent",), ("coordinator", "run")], ids=" ".join)
def test_a_daemon_tells_systemd_when_it_is_ready_lives_and_ends(
    mesh: Mesh, words: tuple[str, ...]
) -> None:
    host = mesh.nodes["n1"].host if words == ("agent",) else mesh.coordinator.host
    (mesh.nodes["n1"] if words == ("agent",) else mesh.coordinator).kill()
    with Listener(host) as systemd:
        env = {"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "400000"}
        daemon = host.start("notifying", PROGRAM, *words, env=env)
        for word in ("READY=1", "WATCHDOG=1"):
            wait_until(lambda: systemd.heard(word), 30, lambda: f"{word}\n{daemon.tail(20)}")  # noqa: B023
        daemon.stop(number=signal.SIGTERM)
        assert systemd.heard("STOPPING=1")
    (mesh.nodes["n1"] if words == ("agent",) else mesh.coordinator).start()
