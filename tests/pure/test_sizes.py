"""Sizes are found by probes: whatever a path lets through, soon, and never by a mere loss."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.paths.sizes import (
    CONFIRM_EVERY,
    LEAST,
    RAISE_EVERY,
    SMALL,
    STEP,
    Ask,
    Sizes,
    between,
)


class Path:
    """A path that swallows what is larger than `passes`, without a word."""

    def __init__(self, limit: int, passes: int) -> None:
        self.sizes = Sizes(rounds_per_second=10)
        self.passes = passes
        self.now = 0.0
        self.sent: list[Ask] = []
        self.sizes.set_peers({"b": limit}, {"b"}, self.now)

    def let(self, seconds: float) -> list[int]:
        """Let time pass; return what was found to fit, change by change."""
        found = [self.sizes.fits("b")]
        end = self.now + seconds
        while (step := self.sizes.next_event(self.now)) + self.now < end:
            self.now += step
            asks, _ = self.sizes.step(self.now)
            self.sent += asks
            for ask in asks:
                if ask.size <= self.passes:
                    self.sizes.answered("b", ask.nonce, self.now + 0.01)
            if self.sizes.fits("b") != found[-1]:
                found.append(self.sizes.fits("b"))
        self.now = end
        return found


def expected(limit: int, passes: int) -> int:
    return limit if passes >= limit else max(LEAST, passes - passes % STEP)


@given(st.integers(LEAST, 9000), st.integers(SMALL, 9100))
def test_what_fits_is_found_within_four_seconds_and_in_one_change(limit: int, passes: int) -> None:
    path = Path(limit, passes)
    wanted = expected(limit, passes)
    assert path.let(4.0) == ([limit] if wanted == limit else [limit, wanted])


@given(st.integers(LEAST, 9000), st.integers(SMALL, 9100), st.integers(SMALL, 9100))
def test_a_path_that_changes_is_followed_both_ways(limit: int, first: int, then: int) -> None:
    path = Path(limit, first)
    path.let(10)
    path.passes = then
    path.let(RAISE_EVERY + CONFIRM_EVERY + 5)
    assert path.sizes.fits("b") == expected(limit, then)


def test_a_path_where_all_passes_costs_a_packet_in_five_seconds() -> None:
    path = Path(1420, 9000)
    path.let(CONFIRM_EVERY * 20)
    assert len(path.sent) == pytest.approx(21, abs=1)
    assert [ask.size for ask in path.sent[:2]] == [SMALL, 1420]
    assert {ask.size for ask in path.sent[2:]} == {1420}


def test_silence_about_the_size_in_use_is_looked_into_at_once() -> None:
    path = Path(1420, 9000)
    path.let(CONFIRM_EVERY + 1)
    path.passes = 1000
    path.let(CONFIRM_EVERY + 3)
    assert path.sizes.fits("b") == expected(1420, 1000)


def test_silence_says_nothing_about_a_size() -> None:
    path = Path(1420, passes=0)
    assert path.let(60) == [1420]


def test_one_lost_probe_changes_nothing() -> None:
    path = Path(1420, 9000)
    path.let(1)
    path.passes = SMALL
    path.let(CONFIRM_EVERY)
    path.passes = 9000
    assert path.let(30) == [1420]


def test_a_peer_that_is_not_reachable_is_not_asked() -> None:
    path = Path(1420, 9000)
    path.sizes.set_peers({"b": 1420}, (), path.now)
    path.let(60)
    assert path.sent == []
    path.sizes.set_peers({"b": 1420}, {"b"}, path.now)
    path.let(1)
    assert len(path.sent) == 2


def test_another_limit_is_believed_at_once_and_then_proven() -> None:
    path = Path(1420, 1300)
    path.let(10)
    path.sizes.set_peers({"b": 8920}, {"b"}, path.now)
    assert path.sizes.fits("b") == 8920
    assert path.let(10)[-1] == 1296


def test_a_thousand_peers_are_asked_in_turn() -> None:
    sizes = Sizes(rounds_per_second=10)
    nodes = [f"n{number}" for number in range(1000)]
    sizes.set_peers(dict.fromkeys(nodes, 1420), nodes, 0.0)
    asked = []
    for tenth in range(1, 51):
        asks, _ = sizes.step(tenth / 10)
        asked += [ask.node for ask in asks if ask.size > SMALL]
        for ask in asks:
            sizes.answered(ask.node, ask.nonce, tenth / 10)
    assert len(asked) == len(set(asked)) == pytest.approx(50, abs=1)


@given(st.integers(SMALL, 9000), st.integers(SMALL, 9000), st.integers(LEAST, 9000))
def test_sizes_to_try_lie_between_what_passes_and_what_does_not(
    low: int, high: int, limit: int
) -> None:
    found = between(low, high, limit)
    assert len(found) <= 8
    assert all(low < size < high for size in found)
    assert all(size % STEP == 0 or size == limit for size in found)
