"""The counters of the kernel's tables of neighbours: as it tells them, and as it may not."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import KernelRefused
from meshnet.linux.neighbours import count


def body(*counters: int) -> bytes:
    """Return a table's body with a struct ndt_stats of these counters."""
    stats = struct.pack(f"={len(counters)}Q", *counters)
    return struct.pack("=BxHHH", 2, 0, 4 + len(stats), 7) + stats


def test_the_last_counter_of_every_table_is_added_up() -> None:
    assert count([body(*range(11)), body(*range(20, 31)), b"\x02\0\0\0"]) == 10 + 30


def test_a_kernel_that_does_not_count_says_nothing() -> None:
    assert count([body(*range(10)), b"\x02\0\0\0", b""]) is None


@given(st.lists(st.binary(max_size=200)))
def test_whatever_comes_is_a_number_or_nothing_or_refused(bodies: list[bytes]) -> None:
    try:
        assert (count(bodies) or 0) >= 0
    except KernelRefused as error:
        assert "malformed" in error.message
