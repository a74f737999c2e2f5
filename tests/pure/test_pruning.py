"""Pure. Deletions do not pile up, and what was deleted does not come back, whoever carries it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.agent.book import Book
from meshnet.agent.storage import Journal
from meshnet.model.facts import Fact, FactSet
from meshnet.model.keys import SigningKey
from meshnet.model.pruning import SPARE, cut
from meshnet.model.records import Floor
from meshnet.wire.fact import seal, sign, sign_deletion
from tests.pure import facts as f

NODE = f.NODES[0]


class Writer:
    """A node that says things, takes them back, and prunes. `said` is all it ever signed."""

    def __init__(self, key: SigningKey = NODE) -> None:
        self.key = key
        self.facts = FactSet()
        self.said: list[Fact] = []

    def put(self, name: str) -> None:
        self._add(sign(self.key, f.attachment(0, name), self._next()))

    def drop(self, name: str) -> None:
        self._add(sign_deletion(self.key, "attachment", f"default {name}", self._next()))

    def prune(self) -> None:
        found = cut(self.facts, lambda fact: fact.deleted)
        if found is not None:
            for fact in found.again:
                assert fact.body is not None
                self._add(sign(self.key, fact.body, self._next()))
            self._add(sign(self.key, Floor(found.below), self._next()))

    @property
    def alive(self) -> set[str]:
        return {fact.slot.key for fact in self.facts if fact.slot.kind == "attachment"} - {
            fact.slot.key for fact in self.facts if fact.deleted
        }

    def _next(self) -> int:
        return len(self.said) + 1

    def _add(self, fact: Fact) -> None:
        self.said.append(fact)
        self.facts.merge([fact])


names = st.sampled_from([f"c{number}" for number in range(12)])
moves = st.lists(st.tuples(st.sampled_from(["put", "drop"]), names), max_size=60)


def played(steps: Sequence[tuple[str, str]], often: int) -> Writer:
    """Play moves; cut as if one spare deletion were too many, so that short plays prune as well."""
    writer = Writer()
    for number in range(SPARE):
        writer.put(f"old{number}")
        writer.drop(f"old{number}")
    for number, (move, name) in enumerate(steps):
        getattr(writer, move)(name)
        if number % often == 0:
            writer.prune()
    return writer


@settings(max_examples=30)
@given(moves, st.integers(1, 7), st.data())
def test_any_order_and_carrier_of_all_that_was_ever_said_ends_at_what_the_writer_has(
    steps: list[tuple[str, str]], often: int, data: st.DataObject
) -> None:
    writer = played(steps, often)
    order = data.draw(st.permutations(writer.said))
    half = data.draw(st.integers(0, len(order)))
    mine, theirs = FactSet(order[:half]), FactSet(order[half:])
    mine.merge(theirs)
    theirs.merge(mine)
    theirs.merge(data.draw(st.lists(st.sampled_from(writer.said), max_size=10)))
    assert mine == theirs == writer.facts
    assert mine.digest == writer.facts.digest


@settings(max_examples=30)
@given(moves, st.integers(1, 7))
def test_pruning_changes_nothing_that_is_alive(steps: list[tuple[str, str]], often: int) -> None:
    alive: set[str] = set()
    for move, name in steps:
        (alive.add if move == "put" else alive.discard)(f"default {name}")
    assert played(steps, often).alive == alive


@settings(max_examples=30)
@given(moves, st.integers(1, 7))
def test_who_takes_facts_in_the_order_they_were_said_never_misses_what_is_alive(
    steps: list[tuple[str, str]], often: int
) -> None:
    writer = played(steps, often)
    follower, seen = FactSet(), Writer()
    pruned = False
    for fact in writer.said:
        before = {one.slot for one in follower if not one.deleted}
        follower.merge([fact])
        after = {one.slot for one in follower if not one.deleted}
        assert before - after <= {fact.slot}
        pruned |= isinstance(fact.body, Floor)
    assert follower == writer.facts
    assert pruned or not steps
    assert seen.facts != follower or not steps


@settings(max_examples=30)
@given(moves, st.integers(1, 7), st.integers(0, 500))
def test_one_who_was_away_learns_from_a_vector_what_is_gone(
    steps: list[tuple[str, str]], often: int, away: int
) -> None:
    writer = played(steps, often)
    behind = FactSet(writer.said[:away])
    behind.merge(writer.facts.since(behind.vector()))
    assert behind == writer.facts


def test_deletions_stay_fewer_than_what_is_alive_and_a_few() -> None:
    writer = Writer()
    for number in range(30):
        writer.put(f"long{number}")
    for number in range(2000):
        writer.put(f"short{number}")
        writer.drop(f"short{number}")
        writer.prune()
        assert sum(fact.deleted for fact in writer.facts) <= len(writer.alive) + SPARE
    assert len(writer.alive) == 30
    assert len(writer.said) < 4000 * 2


def test_a_floor_never_falls() -> None:
    low, high = sign(NODE, Floor(5), 100), sign(NODE, Floor(50), 60)
    assert FactSet([high, low]).floor(NODE.public) == 50
    assert FactSet([low, high]).floor(NODE.public) == 50


def test_a_floor_is_its_writers_own() -> None:
    said = sign(f.NODES[1], f.attachment(1), 3)
    assert said in list(FactSet([said, sign(NODE, Floor(50), 60)]))


def test_a_node_prunes_what_it_took_back_and_its_journal_brings_back_the_same(
    tmp_path: Path,
) -> None:
    clock = itertools.count(1000)

    def book(name: str, key: SigningKey) -> Book:
        return Book(f.ROOT.public, key, Journal(tmp_path / name), lambda: float(next(clock)))

    mine, other = book("mine", NODE), book("other", f.NODES[1])
    for one in (mine, other):
        one.take([seal(fact) for fact in f.base()], "a test")
    for number in range(3 * SPARE):
        attached = f.attachment(0, f"c{number}")
        said = mine.say([f.node_record(100), f.attachment(0, "long"), attached])
        other.take([seal(fact) for fact in said], "a test")
        assert other.facts == mine.facts
    assert len(mine.own) <= 2 * (SPARE + 5)
    assert {"node", "default long"} <= {fact.slot.key for fact in mine.own if not fact.deleted}
    again = book("mine", NODE)
    again.load()
    assert again.facts == mine.facts
