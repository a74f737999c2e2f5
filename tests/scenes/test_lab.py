"""Shell. The lab does what the scenes believe of it: places are apart, links join."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import CommandFailed, Lab, qemu, wait_until
from tests.lab.topology import left_over

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.root


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("two subnets") as lab:
        lab.subnet("left", "192.0.2.0/24", "2001:db8:a::/64")
        lab.subnet("right", "198.51.100.0/24", "2001:db8:b::/64")
        lab.host("a", "left")
        lab.host("b", "right")
        yield lab


def test_hosts_reach_each_other_in_both_families(lab: Lab) -> None:
    a, b = lab.hosts["a"], lab.hosts["b"]
    a.run("ping", "-c1", "-W2", b.address4)
    a.run("ping", "-c1", "-W2", b.address6)


def test_a_cut_link_is_silent_and_a_restored_one_carries_again(lab: Lab) -> None:
    a, b = lab.hosts["a"], lab.hosts["b"]
    a.links[0].cut()
    assert not a.works("ping", "-c1", "-W1", b.address4)
    assert "NO-CARRIER" not in a.output("ip", "link", "show", "eth0")
    a.links[0].restore()
    assert a.works("ping", "-c1", "-W2", b.address4)


def test_a_host_has_run_and_state_of_its_own(lab: Lab) -> None:
    a, b = lab.hosts["a"], lab.hosts["b"]
    a.shell("mkdir /var/lib/meshnet && echo a >/var/lib/meshnet/x && ip netns add one")
    assert b.shell("ls /var/lib /run/netns 2>/dev/null || true").strip() in ("", "/var/lib:")
    assert a.file("/var/lib/meshnet/x").read_text() == "a\n"


def test_a_container_has_the_files_of_its_host_and_its_own_resolver(lab: Lab) -> None:
    host = lab.hosts["a"]
    box = host.container("c1")
    host.shell("echo seen >/run/note")
    box.resolver("192.0.2.53", search="mesh")
    assert box.output("cat", "/run/note") == "seen\n"
    assert "192.0.2.53" in box.output("cat", "/etc/resolv.conf")
    assert "192.0.2.53" not in host.output("cat", "/etc/resolv.conf")
    assert host.output("stat", "-L", "-c", "%i", box.netns_path).strip() == str(box.netns)


def test_a_reboot_takes_processes_and_devices_and_keeps_the_state(lab: Lab) -> None:
    a, b = lab.hosts["a"], lab.hosts["b"]
    a.shell("echo kept >/var/lib/x; echo lost >/run/x; ip link add d0 type bridge; ip netns add n")
    daemon = a.start("daemon", "sleep", "1000")
    a.reboot()
    assert not daemon.running
    assert a.shell("cat /var/lib/x; ls /run; ip -br link").split()[0] == "kept"
    assert not a.works("test", "-e", "/run/x")
    assert not a.works("ip", "link", "show", "d0")
    assert a.works("ping", "-c1", "-W2", b.address4)


def test_a_capture_counts_and_finds_what_was_on_the_wire(lab: Lab) -> None:
    a, b = lab.hosts["a"], lab.hosts["b"]
    with a.links[0].capture() as wire:
        a.run("ping", "-c2", "-i", "0.1", "-p", "6d657368", b.address4)
    assert wire.kinds()["icmp"] == 4
    assert wire.contains(b"meshmesh")
    assert not wire.contains(b"something else")


def test_a_command_that_fails_tells_what_it_said(lab: Lab) -> None:
    with pytest.raises(CommandFailed, match="no such thing"):
        lab.hosts["a"].shell("echo no such thing >&2; exit 3")


def test_a_lab_that_is_there_is_seen_as_left_over(lab: Lab) -> None:
    assert left_over(lab.inode, {place.netns for place in lab.places})


def test_the_drawing_shows_who_is_where(lab: Lab) -> None:
    lab.hosts["a"].container("c1")
    assert lab.draw().splitlines() == [
        "two subnets",
        "└─ internet (router)",
        "   └─ left 192.0.2.0/24 2001:db8:a::/64",
        "      └─ a eth0 192.0.2.2 2001:db8:a::2 mtu 1500  [c1]",
        "   └─ right 198.51.100.0/24 2001:db8:b::/64",
        "      └─ b eth0 198.51.100.2 2001:db8:b::2 mtu 1500",
    ]


@pytest.mark.slow
def test_a_guest_kernel_has_wireguard_and_tells_the_commands_status(
    capfd: pytest.CaptureFixture[str],
) -> None:
    if why := qemu.missing():
        pytest.skip(why)
    here = "ip link add wg0 type wireguard && ls tests/lab/qemu.py && exit 7"
    assert qemu.run(["sh", "-c", here], 100) == 7
    assert capfd.readouterr().out.split() == ["tests/lab/qemu.py"]


KILLED = """
import os, signal
from tests.lab import Lab
lab = Lab("killed")
lab.subnet("left", "192.0.2.0/24")
box = lab.host("a", "left").container("c")
box.start("orphans", "sh", "-c", "sleep 1000 & setsid sleep 1000 & exec sleep 1000")
box.run("true")
print(os.fstat(lab.where.pids).st_ino, *(place.netns for place in lab.places), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_test_leaves_no_process_and_no_namespace() -> None:
    program = [sys.executable, "-c", KILLED]
    killed = subprocess.run(program, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    pids, *networks = map(int, killed.stdout.split())
    wait_until(lambda: not left_over(pids, set(networks)), 30, "the killed lab is gone")
