"""Shell. Faults on real nodes, one at a time, and what the doctor calls each of them.

What the agent would repair within seconds is seeded while it is stopped (SIGSTOP), and so examined
without it; what is not ours is seeded beside a living agent.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshnet.wire.local import Diagnosis, Finding, decode
from tests.lab import wait_until
from tests.lab.mesh import PROGRAM, Mesh, Node
from tests.scenes.mesh_scenes import SEGMENT, Box, attached, can_ping, mesh_of

pytestmark = [pytest.mark.root, pytest.mark.slow]

IN = " ".join(SEGMENT)
STRANGER = "6Wd5JwFf0yTl6BYuL1Rp1zbW2rRpZCkQk8kXv0f2C0U="
SHIFTED = "import time\n_now = time.time\ntime.time = lambda: _now() + {seconds}\n"


@dataclass(frozen=True)
class Play:
    """The stage: n1 with container c1, n2 with c2, and n3 that only looks on."""

    mesh: Mesh
    a: Box
    b: Box

    @property
    def n1(self) -> Node:
        return self.mesh.nodes["n1"]

    @property
    def n2(self) -> Node:
        return self.mesh.nodes["n2"]


@pytest.fixture(scope="module")
def play() -> Iterator[Play]:
    with (
        mesh_of(3, "three nodes, one fault at a time") as mesh,
        attached(mesh.nodes["n1"], "c1") as a,
        attached(mesh.nodes["n2"], "c2", "--service", "web") as b,
    ):
        play = Play(mesh, a, b)
        wait_until_well(play)
        yield play


def wait_until_well(play: Play) -> None:
    def well() -> bool:
        nodes = (play.n1, play.n2)
        return all(node.plan() == () and node.whole for node in nodes) and (
            can_ping(play.a.container, play.b.address4)
        )

    wait_until(well, 30, "all is well again")


def doctor(node: Node, *words: str, env: str = "") -> tuple[int, Diagnosis]:
    """Run the doctor; return its exit code and what it found."""
    command = (*(("env", env) if env else ()), PROGRAM, "doctor", *words, "--json")
    done = node.host.run(*command, check=False, timeout=60)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode, decode(done.stdout.encode(), Diagnosis, "diagnosis")


def first(found: Diagnosis) -> Finding:
    marked = [one for one in found.findings if one.first]
    assert len(marked) == 1, found
    return marked[0]


@contextmanager
def stopped(*nodes: Node) -> Iterator[None]:
    """Have the agents of `nodes` stand still for a while."""
    for node in nodes:
        assert node.agent is not None
        node.agent.send(signal.SIGSTOP)
    try:
        yield
    finally:
        for node in nodes:
            assert node.agent is not None
            node.agent.send(signal.SIGCONT)


def words_of(play: Play) -> str:
    """Return the shell words that the faults are written with."""
    values = {
        "own": play.n1.address4,
        "peer": play.n2.status().public_key,
        "vtep": play.n2.address4,
        "mac": play.b.given.mac,
        "address": play.b.address4,
        "port": "p" + play.a.given.mac.replace(":", ""),
        "listen": str(play.n1.status().listen_port),
    }
    return "".join(f"{name}='{value}'; " for name, value in values.items())


# Where the agent would repair

OURS = {
    "tunnel's address removed": (
        "ip addr del $own/32 dev meshnet0",
        "tunnel",
        "add address 10.213.",
    ),
    "tunnel down": ("ip link set meshnet0 down", "tunnel", "set meshnet0 up"),
    "tunnel removed": ("ip link del meshnet0", "tunnel", "create WireGuard device meshnet0"),
    "peer removed": ("wg set meshnet0 peer $peer remove", "peer", "n2 is not on the device"),
    "allowed IP stolen": (
        f"wg set meshnet0 peer {STRANGER} allowed-ips $vtep/32",
        "peer",
        "allowed IPs of peer n2 differ",
    ),
    "route removed": ("ip route del 10.213.0.0/16 dev meshnet0", "route", "10.213.0.0/16"),
    "FDB entry forged": (
        f"{IN} bridge fdb replace $mac dev vx0 dst 192.0.2.99",
        "FDB",
        "→ 192.0.2.99, should be 10.213.",
    ),
    "FDB entry removed": (f"{IN} bridge fdb del $mac dev vx0 dst $vtep", "FDB", "lacks 0a:"),
    "neighbour removed": (f"{IN} ip neigh del $address dev vx0", "neighbour", "lack 10.214."),
    "neighbour forged": (
        f"{IN} ip neigh replace $address lladdr 02:00:00:00:00:98 dev vx0",
        "neighbour",
        "→ 02:00:00:00:00:98, should be 0a:",
    ),
    "bridge port down": (f"{IN} ip link set $port down", "bridge", "is down or not wired"),
    "port removed": (f"{IN} ip link del $port", "bridge", "is not there"),
    "VXLAN device removed": (f"{IN} ip link del vx0", "bridge", "build network default"),
    "bridge removed": (f"{IN} ip link del br0", "bridge", "build network default"),
    "our nft table removed": ("nft delete table inet meshnet", "firewall", "inet meshnet is not"),
}


@pytest.mark.parametrize("what", OURS)
def test_without_an_agent_is_named(play: Play, what: str) -> None:
    seed, check, text = OURS[what]
    words = words_of(play)
    with stopped(play.n1):
        play.n1.host.shell(words + seed)
        code, found = doctor(play.n1, "c1", "c2")
    assert (code, found.agent) == (1, False)
    assert (first(found).check, text in first(found).text) == (check, True), first(found)
    assert "Start the agent" in first(found).do
    wait_until_well(play)


def test_a_containers_address_that_was_removed_is_named(play: Play) -> None:
    interface = play.a.given.interface
    with stopped(play.n1):
        play.a.container.shell(f"ip addr del {play.a.given.addresses[0]} dev {interface}")
        code, found = doctor(play.n1, "c1", "c2")
    assert code == 1
    assert first(found).check == "container"
    assert f"lacks {play.a.given.addresses[0]}" in first(found).text
    wait_until_well(play)


def test_a_fault_at_the_far_end_sends_us_there(play: Play) -> None:
    interface = play.b.given.interface
    with stopped(play.n2):
        play.b.container.shell(f"ip addr del {play.b.given.addresses[0]} dev {interface}")
        code, here = doctor(play.n1, "c1", "c2")
        assert (code, first(here).check) == (1, "reach")
        assert "run the same on n2" in first(here).do
        code, there = doctor(play.n2, "c1", "c2")
    assert (code, first(there).check) == (1, "container")
    wait_until_well(play)


def test_a_rule_that_leads_the_mesh_elsewhere_is_named(play: Play) -> None:
    host = play.n1.host
    host.shell("ip route add default dev eth0 table 77; ip rule add to 10.213.0.0/16 table 77")
    code, found = doctor(play.n1, "n1", "n2")
    host.shell("ip rule del table 77; ip route flush table 77")
    assert code == 1
    assert first(found).check == "route"
    assert f"{play.n2.address4} leave by eth0 and not by meshnet0" in first(found).text
    wait_until_well(play)


ASTRAY = {
    "no default route": (
        "ip route del default; ip -6 route del default",
        "for via in {gateway4} {gateway6}; do ip route add default via $via dev eth0; done",
        "underlay",
        ":51820, where the peer is",
        "Give this host one",
    ),
    "a route in the place of ours": (
        "ip route replace 10.213.0.0/16 dev eth0",
        "ip route del 10.213.0.0/16 dev eth0",
        "route",
        "missing: add route 10.213.0.0/16 to meshnet0",
        "there is one that is not ours",
    ),
    "a route before that of a network": (
        "ip route add 10.214.0.0/17 dev eth0",
        "ip route del 10.214.0.0/17 dev eth0",
        "route",
        "packets to 10.214.0.1 leave by eth0 and not by mesh-default",
        "take away what is not ours",
    ),
}


@pytest.mark.parametrize("what", ASTRAY)
def test_a_host_whose_routes_lead_astray_is_named_while_its_agent_runs(
    play: Play, what: str
) -> None:
    seed, undo, check, text, do = ASTRAY[what]
    gateway4, gateway6 = play.n1.host.links[0].subnet.gateways
    play.n1.host.shell(seed)
    if do.startswith("there"):
        wait_until(lambda: play.n1.status().warnings, 10, "the agent has tried to repair it")
    try:
        code, found = doctor(play.n1, "n1", "n2")
    finally:
        play.n1.host.shell(undo.format(gateway4=gateway4, gateway6=gateway6))
    assert (code, first(found).check) == (1, check)
    assert text in first(found).text
    assert do in first(found).do
    wait_until_well(play)


def test_a_host_that_cannot_be_on_its_network_says_why_until_it_can(play: Play) -> None:
    lab, mesh = play.mesh.lab, play.mesh
    host = lab.host("n4", next(iter(lab.subnets)))
    host.shell("ip link add mesh-default type bridge")
    node = mesh.join(host)
    wait_until(lambda: any("mesh-default" in text for text in node.status().warnings), 10, "it is")
    code, found = doctor(node)
    assert (code, first(found).check) == (1, "container")
    assert "the host has a link mesh-default already" in first(found).text
    host.shell("ip link del mesh-default")
    wait_until(lambda: not node.status().warnings, 35, lambda: f"n4 is well\n{node.status()}")
    mesh.leave(node)
    wait_until(lambda: play.n1.status().counts.nodes == 3, 10, "n4 has left")


def test_an_endpoint_that_is_not_the_peers_is_named(play: Play) -> None:
    words = words_of(play)
    with stopped(play.n1, play.n2):
        play.n1.host.shell(f"{words}wg set meshnet0 peer $peer endpoint 192.0.2.99:51820")
        code, found = doctor(play.n1, "n1", "n2")
    assert code == 1
    assert first(found).check == "handshake"
    assert "endpoint 192.0.2.99:51820, which is none of its own" in first(found).text
    wait_until_well(play)


def test_a_port_that_another_program_holds_is_named(play: Play) -> None:
    port = play.n1.status().listen_port
    take = (
        "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        f"s.bind(('', {port})); print('held', flush=True); time.sleep(60)"
    )
    with stopped(play.n1):
        play.n1.host.shell("ip link del meshnet0")
        thief = play.n1.host.start("thief", "python3", "-c", take)
        wait_until(lambda: "held" in thief.text(), 10, "the port is held")
        code, found = doctor(play.n1)
        thief.kill()
    assert code == 1
    assert first(found).check == "port"
    assert f"UDP port {port} is held by another program" in first(found).text
    wait_until_well(play)


# Where it is not ours

CHAIN = (
    "nft 'add table {family} foreign; add chain {family} foreign block"
    " {{ type filter hook {hook} priority 0; policy {policy}; }}'; "
)
BLOCK = {
    "drop of our UDP port in input": (
        CHAIN.format(family="inet", hook="input", policy="accept")
        + "nft add rule inet foreign block udp dport $listen drop",
        "come in are dropped by table inet foreign, chain block, handle",
        "udp dport 51820 drop",
    ),
    "drop of our UDP port in output": (
        CHAIN.format(family="inet", hook="output", policy="accept")
        + "nft add rule inet foreign block udp sport { 1, 51820 } counter drop",
        "go out are dropped by table inet foreign, chain block, handle",
        "udp sport { 1, 51820 } counter",
    ),
    "drop of all UDP before routing": (
        CHAIN.format(family="ip", hook="prerouting", policy="accept")
        + "nft add rule ip foreign block iifname eth0 meta l4proto udp drop",
        "dropped by table ip foreign, chain block, handle",
        "l4proto udp drop",
    ),
    "policy drop in input": (
        CHAIN.format(family="inet", hook="input", policy="drop")
        + "nft 'add rule inet foreign block ct state established,related accept;"
        " add rule inet foreign block iifname lo accept;"
        " add rule inet foreign block tcp dport 22 accept'",
        "VXLAN packets that come out of the tunnel",
        "policy drop",
    ),
    "drop of VXLAN on the tunnel": (
        CHAIN.format(family="inet", hook="input", policy="accept")
        + "nft add rule inet foreign block iifname meshnet0 udp dport 14789 drop",
        "VXLAN packets that come out of the tunnel are dropped by table inet foreign",
        "14789 drop",
    ),
    "drop of bridged frames": (
        "nsenter --net=/run/netns/meshnet-default sh -c "
        + '"'
        + CHAIN.format(family="bridge", hook="forward", policy="accept")
        + 'nft add rule bridge foreign block drop"',
        "frames of network default are dropped by table bridge foreign, chain block, handle",
        "drop",
    ),
}


@pytest.mark.parametrize("what", BLOCK)
def test_a_foreign_nft_rule_is_named_with_its_handle(play: Play, what: str) -> None:
    seed, place, rule = BLOCK[what]
    play.n1.host.shell(words_of(play) + seed)
    try:
        code, found = doctor(play.n1, "c1", "c2")
    finally:
        play.n1.host.shell(
            "for f in inet ip; do nft delete table $f foreign 2>/dev/null || :; done; "
            f"{IN} nft delete table bridge foreign 2>/dev/null || :"
        )
    assert (code, first(found).check) == (1, "firewall")
    assert place in first(found).text
    assert rule in first(found).text
    wait_until_well(play)


@pytest.mark.parametrize("program", ["iptables", "iptables-legacy"])
def test_a_rule_of_iptables_is_named(play: Play, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    rule = "INPUT -p udp --dport 51820 -j DROP"
    play.n1.host.run(program, "-A", *rule.split())
    try:
        code, found = doctor(play.n1, "n1", "n2")
    finally:
        play.n1.host.run(program, "-D", *rule.split())
    assert (code, first(found).check) == (1, "firewall")
    assert "chain INPUT" in first(found).text
    assert "dport 51820" in first(found).text
    wait_until_well(play)


def test_a_path_that_swallows_large_packets_is_named(play: Play) -> None:
    router = play.mesh.lab.router()
    chain = (
        "{ type filter hook forward priority 0; ip length > 1300 drop; ip6 length > 1260 drop; }"
    )
    router.run("nft", "-f", "-", input=f"table inet hole {{ chain forward {chain}; }}\n")
    try:
        code, found = doctor(play.n1, "n1", "n2")
    finally:
        router.run("nft", "delete", "table", "inet", "hole")
    assert (code, first(found).check) == (1, "MTU")
    assert "do not pass the tunnel, of 12" in first(found).text
    wait_until_well(play)


def test_a_cut_cable_is_a_peer_that_does_not_answer(play: Play) -> None:
    link = play.n2.host.links[0]
    link.cut()
    try:
        code, found = doctor(play.n1, "n1", "n2")
    finally:
        link.restore()
    assert (code, first(found).check) == (1, "handshake")
    assert "n2 does not answer at" in first(found).text
    wait_until_well(play)


def test_a_dns_server_that_hangs_is_named(play: Play) -> None:
    (server,) = [pid for pid in play.n1.host.processes() if "meshnet.dns" in command_of(pid)]
    os.kill(server, signal.SIGSTOP)
    try:
        code, found = doctor(play.n1)
    finally:
        os.kill(server, signal.SIGCONT)
    assert (code, first(found).check) == (1, "DNS")
    assert "does not answer" in first(found).text
    wait_until_well(play)


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_the_agent_of_the_peer_that_is_down_is_named_last(play: Play) -> None:
    play.n2.kill()
    try:
        code, found = doctor(play.n1, "c1", "web")
    finally:
        play.n2.start()
    assert (code, first(found).check) == (1, "agent")
    assert "the agent of n2 is down" in first(found).text
    wait_until_well(play)


@pytest.mark.parametrize(
    ("seconds", "check", "text"),
    [
        (3600, "clock", "our clock is 3"),
        (-3600, "clock", "our clock is 3"),
        (40 * 86400, "identity", "the membership of this node expired on"),
    ],
)
def test_a_clock_that_is_off_is_named(
    play: Play, tmp_path: Path, seconds: int, check: str, text: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SHIFTED.format(seconds=seconds))
    with stopped(play.n1):
        code, found = doctor(play.n1, env=f"PYTHONPATH={tmp_path}")
    assert (code, first(found).check) == (1, check)
    assert text in first(found).text
    wait_until_well(play)


# Who is asked for

ABSENT: dict[str, Callable[[Play], tuple[str, str]]] = {
    "a name that nobody has": lambda play: ("c1", "nobody"),
    "a container that is not attached": lambda play: ("c9.n2", "c1"),
}


@pytest.mark.parametrize("what", ABSENT)
def test_who_is_not_in_our_facts_is_named(play: Play, what: str) -> None:
    code, found = doctor(play.n1, *ABSENT[what](play))
    assert (code, first(found).check) == (1, "map")
    assert "is in our facts" in first(found).text


def test_when_all_is_well_every_check_says_so_from_both_ends(play: Play) -> None:
    for node in (play.n1, play.n2):
        code, found = doctor(node, "c1", "web")
        assert (code, {one.state for one in found.findings}) == (0, {"ok"}), found
        assert found.at == node.name
    names = [one.check for one in found.findings]
    assert names[:5] == ["identity", "clock", "map", "underlay", "firewall"]
    assert names[-2:] == ["DNS", "agent"]


def test_a_third_node_says_that_it_is_one(play: Play) -> None:
    code, found = doctor(play.mesh.nodes["n3"], "c1", "n2")
    assert code == 0
    vantage = found.findings[0]
    assert (vantage.check, vantage.do) == ("vantage", "Run the same on n1 or n2.")


def test_as_text_the_first_fault_has_an_arrow_and_what_to_do(play: Play) -> None:
    code, text = play.n1.host.transcript(PROGRAM, "doctor", "c1", "nobody")
    marked = [line for line in text.splitlines() if line.startswith("→")]
    assert code == 1
    assert marked == ["→ map        WRONG  no node, attachment or service nobody is in our facts"]
    assert "See `meshnet nodes`" in text


def test_a_machine_that_never_joined_is_told_to(play: Play) -> None:
    code, found = doctor_of_stranger(play)
    assert (code, first(found).check) == (1, "identity")
    assert "meshnet join" in first(found).do


def doctor_of_stranger(play: Play) -> tuple[int, Diagnosis]:
    done = play.mesh.coordinator.host.run(PROGRAM, "doctor", "--json", check=False)
    return done.returncode, decode(json.dumps(json.loads(done.stdout)).encode(), Diagnosis, "it")


def test_a_node_that_was_revoked_is_named(play: Play) -> None:
    third = play.mesh.nodes["n3"]
    third.kill()
    play.mesh.revoke(third)
    wait_until(lambda: play.n1.status().counts.nodes == 2, 10, "n1 hears of it")
    code, found = doctor(play.n1, "n1", "n3")
    assert (code, first(found).check) == (1, "map")
    assert "the membership of n3 is revoked" in first(found).text
