"""Shell. The doctor where WireGuard is the kernel's: seeded faults of the tunnel, named the same.

Those of bridges, entries and rules are the same kernel's on any host: see `tests/scenes`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import wait_until
from tests.lab.hosts import Host
from tests.scenes import test_doctor as faults
from tests.scenes.test_doctor import (
    Play,
    doctor,
    first,
    play,
    test_a_path_that_swallows_large_packets_is_named,
    test_a_port_that_another_program_holds_is_named,
    test_an_endpoint_that_is_not_the_peers_is_named,
    test_when_all_is_well_every_check_says_so_from_both_ends,
    wait_until_well,
)

__all__ = [
    "play",
    "test_a_path_that_swallows_large_packets_is_named",
    "test_a_port_that_another_program_holds_is_named",
    "test_an_endpoint_that_is_not_the_peers_is_named",
    "test_when_all_is_well_every_check_says_so_from_both_ends",
]

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.kernel]

OURS = sorted(what for what in faults.OURS if what.startswith(("tunnel", "peer", "allowed")))
BLOCK = ("drop of our UDP port in input", "drop of our UDP port in output")


@pytest.mark.parametrize("what", OURS)
def test_without_an_agent_is_named(play: Play, what: str) -> None:
    faults.test_without_an_agent_is_named(play, what)


@pytest.mark.parametrize("what", BLOCK)
def test_a_foreign_nft_rule_is_named_with_its_handle(play: Play, what: str) -> None:
    faults.test_a_foreign_nft_rule_is_named_with_its_handle(play, what)


ROOM = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
STRANGERS = """
import socket, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    for number in range(10, 250):
        try:
            sock.sendto(b"", ("192.0.2.%d" % number, 9))
        except OSError:
            pass
    time.sleep(0.2)
"""


@contextmanager
def no_room_for_neighbours(host: Host) -> Iterator[None]:
    """Have a host ask for more neighbours than the kernel has room for, and others beside it."""
    before = ROOM.read_text()
    ROOM.write_text("16")
    asking = host.start("strangers", sys.executable, "-c", STRANGERS)
    try:
        yield
    finally:
        asking.kill()
        ROOM.write_text(before)
        host.run("ip", "neigh", "flush", "all")


def test_a_full_table_of_neighbours_is_named(play: Play) -> None:
    with no_room_for_neighbours(play.n1.host):
        wait_until(lambda: doctor(play.n1, "n1", "n2")[0] == 1, 20, "the table is full")
        code, found = doctor(play.n1, "n1", "n2")
    assert (code, first(found).check) == (1, "underlay")
    assert "table of neighbours is full" in first(found).text
    wait_until_well(play)
