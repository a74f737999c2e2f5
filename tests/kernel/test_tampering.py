"""Shell. Drawn tampering with live agents, several at once: all comes back, nobody else loses.

MESHNET_TAMPERINGS is how often is drawn, 6 times unless it says otherwise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.kernel.tampering import FOREIGN, look, looks, tamperings, words_of
from tests.lab import CommandFailed, wait_until
from tests.lab.mesh import Mesh
from tests.scenes.mesh_scenes import Box, can_ping, differences

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.kernel]

WITHIN = 5.0
TIMES = int(os.environ.get("MESHNET_TAMPERINGS", "6"))


@pytest.fixture(scope="module")
def upset(boxes: tuple[Box, Box]) -> Iterator[Box]:
    """The container whose node is tampered with, and things of somebody else's beside it."""
    a, _ = boxes
    a.node.host.shell(FOREIGN)
    yield a
    a.node.host.shell("ip rule del fwmark 77 table 1077; nft delete table inet foreign")
    a.node.host.shell("ip link del foreign0; ip link del wgf; ip netns del foreign")


@pytest.mark.timeout(0)
@settings(
    max_examples=TIMES,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(drawn=st.lists(tamperings, min_size=1, max_size=4, unique=True))
def test_whatever_is_tampered_with_is_as_before_within_five_seconds(
    mesh: Mesh, boxes: tuple[Box, Box], upset: Box, drawn: list[str]
) -> None:
    a, b = boxes
    wait_until(lambda: a.node.plan() == (), 10, "nothing to do before")
    started = time.monotonic()
    before = look(a)
    looking = time.monotonic() - started

    tamper(a, b, drawn)

    wait_until(
        lambda: looks(a, before),
        WITHIN + looking,
        lambda: f"as before {drawn}\n{differences(before, now(a))}\n{a.node.status()}",
        pause=0.2,
    )
    wait_until(lambda: can_ping(a.container, b.address4), 20, lambda: f"c1 reaches c2: {drawn}")


def tamper(a: Box, b: Box, drawn: list[str]) -> None:
    """Do it all at once. What comes after another may find nothing left to be done to."""
    first, *others = drawn
    script = words_of(a, b) + first
    script += "".join(f"\n({other}) 2>/dev/null || true" for other in others)
    note(script)
    a.node.host.shell(script)


def now(a: Box) -> str:
    try:
        return look(a)
    except CommandFailed as error:
        return str(error)
