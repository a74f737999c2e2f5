"""How long work that came in is let lie."""

from __future__ import annotations

import pytest

from meshnet.agent.waiting import LONGEST_REST, MOST_RESTS, rest


def test_a_rest_is_as_long_as_the_round_and_longer_where_others_had_the_core() -> None:
    assert rest(0.010, 1.0) == pytest.approx(0.010)
    assert rest(0.010, 2.0) == pytest.approx(0.040)
    assert rest(0.02, 50.0) == pytest.approx(MOST_RESTS)
    assert rest(1.0, 60.0) == LONGEST_REST
    assert rest(0.010, 0.5) == pytest.approx(0.010)
