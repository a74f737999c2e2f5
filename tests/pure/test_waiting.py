"""How long work that came in is let lie."""

from __future__ import annotations

import pytest

from meshnet.agent.waiting import FEW, LONGEST_REST, RESTS, Lateness, rest


def test_a_rest_is_as_long_as_the_round_and_longer_where_others_have_the_core() -> None:
    assert rest(0.010, 0.0) == pytest.approx(0.010)
    assert rest(0.010, 0.1) == pytest.approx(0.010 + RESTS * 0.1)
    assert rest(60.0, 1.0) == LONGEST_REST


def test_one_long_standstill_does_not_make_a_core_crowded() -> None:
    late = Lateness()
    assert late.typical == 0.0
    for seconds in (0.001, 0.002, 3600.0, 0.001, 0.002):
        late.add(seconds)
    assert late.typical == 0.002
    for _ in range(FEW):
        late.add(0.2)
    assert late.typical == 0.2
