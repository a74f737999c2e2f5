"""Shell. The book of facts: what this node knows, on disk and in memory, and what it says itself.

Facts enter from a coordinator, from peers and from this node. Whatever the carrier, they take the
same way: verified, merged, appended to the journal, and only then part of the view. What this node
says of itself is compared with what it has said before, so only changes are signed, and what a
lost state directory once said is taken back. When deletions pile up, the node raises its floor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import Counter

from meshnet.agent.storage import Journal
from meshnet.errors import MeshnetError
from meshnet.model.facts import RECORDS, Fact, FactSet, Slot
from meshnet.model.keys import IdentityKey, SigningKey
from meshnet.model.pruning import cut
from meshnet.model.records import Floor, Record
from meshnet.model.statements import Issuer, Membership
from meshnet.model.view import Refusal, View, Viewer
from meshnet.wire.fact import SignedFact, open_fact, sign, sign_deletion

log = logging.getLogger(__name__)

COMPACT_AFTER = 10_000
"""Lines beyond twice the facts that a journal may grow to before it is rewritten."""

WRITE_AGAIN = 5.0
"""Seconds after which a journal that could not be written is tried again."""

REFUSED = Counter("meshnet_facts_refused", "Facts that were not taken in", ["reason"])


class Book:
    """All facts of one node. `clock` returns seconds since the epoch."""

    def __init__(
        self, root: IdentityKey, key: SigningKey, journal: Journal, clock: Callable[[], float]
    ) -> None:
        self._key = key
        self._journal = journal
        self._clock = clock
        self.facts = FactSet()
        self._viewer = Viewer(root)
        self._appended = 0
        self._behind_since: float | None = None
        self.fault = ""
        self._known_refusals: frozenset[Refusal] = frozenset()
        self._root = root
        self.view = View()

    def load(self) -> None:
        """Read the journal and compact it."""
        self.facts.merge(self._journal.load())
        self.forget_strangers()
        self.refresh(list(self.facts))
        self._write_whole()

    @property
    def sequence(self) -> int:
        """The highest sequence this node has used."""
        return max((fact.sequence for fact in self.own), default=0)

    @property
    def own(self) -> list[Fact]:
        return self.facts.of(self._key.public)

    def take(self, signed: Iterable[SignedFact], carrier: str) -> list[Fact]:
        """Take in facts from outside and return the news; bad ones are counted and logged."""
        return self.admit(self.open(signed, carrier))

    def open(self, signed: Iterable[SignedFact], carrier: str) -> list[Fact]:
        """Verify facts from outside; return those that are sound.

        An old word of an honest writer may be told again late, so that is counted and no warning.
        """
        opened = []
        for item in signed:
            try:
                opened.append(fact := open_fact(item))
            except MeshnetError as error:
                REFUSED.labels("invalid").inc()
                log.warning("fact from %s refused: %s", carrier, error.message)
                continue
            if self.facts.is_outdated(fact):
                REFUSED.labels("outdated").inc()
                log.info("fact from %s is outdated: %s", carrier, fact)
        return opened

    def say(self, bodies: Iterable[Record]) -> list[Fact]:
        """Make this the whole of what the node says of itself; return the facts that changed."""
        want = {(body.KIND, body.slot): body for body in bodies}
        sequence = max(self.sequence, int(self._clock() * 1000))
        changed = []
        for slot in sorted({*want, *self._said()}):
            body, known = want.get(slot), self.facts.get(Slot(self._key.public, *slot))
            if body is not None and (known is None or known.body != body):
                sequence += 1
                changed.append(sign(self._key, body, sequence))
            elif body is None and known is not None and not known.deleted:
                sequence += 1
                changed.append(sign_deletion(self._key, *slot, sequence))
        said = self.admit(changed)
        return said + self._prune() if any(fact.deleted for fact in said) else said

    def _said(self) -> list[tuple[str, str]]:
        kinds = RECORDS.keys() - {Floor.KIND}
        return [(f.slot.kind, f.slot.key) for f in self.own if f.slot.kind in kinds]

    def _prune(self) -> list[Fact]:
        """Raise the floor over deletions when that pays. It is the last word, said after what is to
        stay: whoever takes these facts in order misses nothing for a moment."""
        found = cut(self.own, lambda fact: fact.body is None)
        if found is None:
            return []
        sequence = self.sequence
        said = [
            sign(self._key, fact.body, sequence + number)
            for number, fact in enumerate(found.again, 1)
            if fact.body is not None
        ]
        floor = sign(self._key, Floor(found.below), sequence + len(said) + 1)
        return self.admit([*said, floor])

    def admit(self, facts: Sequence[Fact]) -> list[Fact]:
        """Merge sound facts; the news is on disk and in the view when this returns."""
        news = self.facts.merge(facts)
        if news:
            self._append(news)
            self.refresh(news)
        return news

    def catch_up(self) -> None:
        """Write down what could not be written before, now and then."""
        since = self._behind_since
        if since is not None and abs(self._clock() - since) > WRITE_AGAIN:
            self._write_whole()

    def _append(self, news: Sequence[Fact]) -> None:
        if self._behind_since is not None:
            return
        try:
            self._journal.append(news)
        except MeshnetError as error:
            self._fall_behind(error)
            return
        self._appended += len(news)
        if self._appended > 2 * len(self.facts) + COMPACT_AFTER:
            self._write_whole()

    def _write_whole(self) -> None:
        """Write the journal anew; what one cannot write is kept in memory, and tried later."""
        try:
            self._journal.compact(self.facts)
            self._appended, self._behind_since, self.fault = 0, None, ""
        except MeshnetError as error:
            self._fall_behind(error)

    def _fall_behind(self, error: MeshnetError) -> None:
        self._behind_since = self._clock()
        if not self.fault:
            log.error("facts kept in memory only: %s", error.message)
        self.fault = error.message

    def refresh(self, changed: Iterable[Fact] = ()) -> View:
        """Derive the view anew, as after a change or when something expires."""
        self.view = self._viewer.view(self.facts, changed, self._clock())
        self._report_refusals()
        return self.view

    @property
    def holds(self) -> bool:
        """Whether the view is still what the facts say at this time."""
        return self._viewer.holds(self._clock())

    def forget_strangers(self) -> None:
        """Drop facts of those who are neither members nor issuers: nobody fills our memory.

        A membership that has ended counts, for it may be renewed, and our clock may be wrong.
        """
        issuers = {
            IdentityKey.parse(fact.slot.key)
            for fact in self.facts.of(self._root)
            if fact.slot.kind == Issuer.KIND
        }
        members = {
            fact.body.identity
            for issuer in issuers
            for fact in self.facts.of(issuer)
            if isinstance(fact.body, Membership)
        }
        for writer in self.facts.writers:
            if writer not in members | issuers | {self._root, self._key.public}:
                self.facts.forget(writer)

    def _report_refusals(self) -> None:
        refusals = frozenset(self.view.refusals)
        for refusal in sorted(refusals - self._known_refusals, key=str):
            REFUSED.labels("unfounded").inc()
            log.warning("%s", refusal)
        self._known_refusals = refusals
