"""Networks that an engine has are on its host before there is a container."""

from __future__ import annotations

from meshnet.model.facts import FactSet
from meshnet.model.keys import PrivateKey
from meshnet.model.records import NodeRecord
from meshnet.model.view import Viewer
from meshnet.plan.desired import Local, desired
from meshnet.plan.entries import Entries
from meshnet.plan.holds import LASTING, Holds
from meshnet.wire.fact import sign
from tests.pure import facts as f


def test_each_telling_takes_the_place_of_the_one_before() -> None:
    holds = Holds()
    assert holds.tell("docker", ["red", "blue"], now=0.0)
    assert not holds.tell("docker", ["blue", "red"], now=1.0)
    assert not holds.tell("other", ["red"], now=1.0)
    assert holds.tell("docker", [], now=2.0)
    assert holds.networks(2.0) == {"red"}


def test_who_is_silent_has_nothing_after_a_while() -> None:
    holds = Holds()
    holds.tell("docker", ["red"], now=0.0)
    assert holds.networks(LASTING - 1) == {"red"}
    assert holds.networks(LASTING) == frozenset()


def test_a_network_that_is_held_is_built_with_no_port_and_one_nobody_knows_is_not() -> None:
    facts = [*f.base(), sign(f.NODES[1], NodeRecord((f.wireguard(1),)), 1)]
    view = Viewer(f.ROOT.public).view(FactSet(facts), facts, f.NOW)
    me, key = f.membership(0).node, PrivateKey(bytes(32))
    name = min(view.networks)
    local = Local(me, "meshnet0", key, 1, 1420, 1420, held=frozenset({name, "unheard-of"}))
    segments = desired(view, local, Entries()).segments
    assert segments.keys() == {name}
    assert segments[name].ports == {}
