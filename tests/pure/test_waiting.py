"""How long work that came in is let lie."""

from __future__ import annotations

import pytest

from meshnet.agent.waiting import LONGEST_REST, RESTS, rest


def test_a_rest_is_as_long_as_the_round_and_longer_where_others_have_the_core() -> None:
    assert rest(0.010, 0.0) == pytest.approx(0.010)
    assert rest(0.010, 0.1) == pytest.approx(0.010 + RESTS * 0.1)
    assert rest(60.0, 1.0) == LONGEST_REST
