"""Pure. Facts: what is signed survives its journey whole, or does not arrive."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import BadInput, MeshnetError, NotAuthentic
from meshnet.model.facts import Fact, FactSet, Slot
from meshnet.model.keys import SigningKey
from meshnet.model.records import Floor, NodeRecord
from meshnet.wire import codec
from meshnet.wire.fact import (
    CONTEXT,
    PAYLOAD_LIMIT,
    SEQUENCE_LIMIT,
    SignedFact,
    open_fact,
    seal,
    sign,
    sign_deletion,
)
from tests.pure import facts as f

many = st.lists(f.signed_facts, max_size=12)


def forge(key: SigningKey, payload: bytes) -> SignedFact:
    """Sign any bytes the way a fact is signed."""
    made = sign(key, f.node_record(1), 0)
    signature = key.sign(CONTEXT + payload)
    return seal(Fact(made.slot, 0, None, False, payload, signature))


def payload(**changes: object) -> bytes:
    """The canonical payload of a node record, with changes."""
    content = json.loads(sign(f.NODES[0], f.node_record(1), 1).payload)
    return codec.encode({**content, **changes})


# The wire


@given(f.signed_facts)
def test_a_fact_arrives_as_it_was_sent(fact: Fact) -> None:
    arrived = open_fact(codec.decode(codec.encode(seal(fact)), SignedFact, "fact"))
    assert arrived == fact
    assert (arrived.slot, arrived.sequence, arrived.body, arrived.deleted) == (
        fact.slot,
        fact.sequence,
        fact.body,
        fact.deleted,
    )
    assert seal(arrived) == seal(fact)


@given(f.signed_facts, st.data())
def test_one_flipped_bit_of_the_payload_is_refused(fact: Fact, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(fact.payload) - 1))
    altered = bytearray(fact.payload)
    altered[bit // 8] ^= 1 << bit % 8
    try:
        text = altered.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises((NotAuthentic, BadInput)):
        open_fact(SignedFact(text, seal(fact).signature))


@given(f.signed_facts, st.integers(0, 511))
def test_one_flipped_bit_of_the_signature_is_refused(fact: Fact, bit: int) -> None:
    altered = bytearray(fact.signature)
    altered[bit // 8] ^= 1 << bit % 8
    spoiled = Fact(fact.slot, fact.sequence, None, False, fact.payload, bytes(altered))
    with pytest.raises(NotAuthentic):
        open_fact(seal(spoiled))


@given(f.signed_facts, f.signed_facts)
def test_the_signature_of_one_fact_does_not_hold_for_another(one: Fact, other: Fact) -> None:
    if one != other:
        with pytest.raises(NotAuthentic):
            open_fact(SignedFact(seal(one).payload, seal(other).signature))


def test_a_signature_made_in_another_context_does_not_hold() -> None:
    fact = sign(f.NODES[0], f.node_record(1), 1)
    bare = Fact(fact.slot, 1, None, False, fact.payload, f.NODES[0].sign(fact.payload))
    with pytest.raises(NotAuthentic):
        open_fact(seal(bare))


def test_a_fact_that_names_another_writer_is_refused() -> None:
    with pytest.raises(NotAuthentic):
        open_fact(forge(f.FORGER, payload()))


def test_an_unknown_kind_and_unknown_fields_survive_the_journey() -> None:
    strange = forge(f.NODES[0], payload(kind="weather", key="x", body={"rain": [1, None]}, more=1))
    arrived = open_fact(strange)
    assert (arrived.slot.kind, arrived.body, arrived.deleted) == ("weather", None, False)
    assert seal(arrived) == strange


def test_an_unknown_field_of_a_known_body_survives_the_journey() -> None:
    body = json.loads(payload())["body"]
    newer = forge(f.NODES[0], payload(body={**body, "colour": "blue"}))
    arrived = open_fact(newer)
    assert isinstance(arrived.body, NodeRecord)
    assert seal(arrived) == newer


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (payload() + b" ", "canonical"),
        (payload().replace(b'"version":1', b'"version":1,"version":1'), "canonical|valid"),
        (payload(version=2), "version"),
        (payload(sequence=-1), "sequence"),
        (payload(sequence=SEQUENCE_LIMIT), "sequence"),
        (payload(key="other"), "speaks of"),
        (payload(body={}), "not valid"),
        (payload(body=[]), "not valid"),
        (payload(writer="x"), "not valid"),
        (b"[]", "not valid"),
        (b"", "not valid"),
        (payload(more="x" * PAYLOAD_LIMIT), "larger"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "valid|larger"),
    ],
)
def test_what_is_signed_and_still_no_fact_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        open_fact(forge(f.NODES[0], content))


@given(st.text(max_size=300), st.text(max_size=100))
def test_any_text_is_a_fact_or_an_error_of_ours(content: str, signature: str) -> None:
    with pytest.raises(MeshnetError):
        open_fact(SignedFact(content, signature))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=20,
)
body_kinds = st.sampled_from(
    ["node", "attachment", "instance", "lease", "membership", "network", "static", "mesh"]
)


@given(body_kinds, st.text(max_size=20), json_values, st.integers())
def test_any_signed_json_is_a_fact_or_an_error_of_ours(
    kind: str, key: str, body: object, sequence: int
) -> None:
    try:
        content = payload(kind=kind, key=key, body=body, sequence=sequence)
    except (ValueError, OverflowError, UnicodeEncodeError):
        return
    with contextlib.suppress(MeshnetError):
        open_fact(forge(f.NODES[0], content))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_signed_fact_or_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(MeshnetError):
        open_fact(codec.decode(data, SignedFact, "fact"))


# The merge


@given(many, st.data())
def test_order_and_repetition_do_not_matter(facts: list[Fact], data: st.DataObject) -> None:
    repeated = facts + data.draw(
        st.lists(st.sampled_from(facts), max_size=6) if facts else st.just([])
    )
    one, other = FactSet(facts), FactSet()
    for fact in data.draw(st.permutations(repeated)):
        other.merge([fact])
    assert list(one) == list(other)
    assert (one.digest, one.vector(), len(one)) == (other.digest, other.vector(), len(other))


@given(many, many)
def test_the_carrier_does_not_matter(one: list[Fact], other: list[Fact]) -> None:
    left, right = FactSet(one), FactSet(other)
    through_left = FactSet(one)
    through_left.merge(right)
    through_right = FactSet(other)
    through_right.merge(left)
    assert through_left == through_right == FactSet(one + other)
    assert through_left.digest == through_right.digest


@given(many)
def test_of_each_slot_the_highest_sequence_above_the_writers_floor_stays(
    facts: list[Fact],
) -> None:
    kept = FactSet(facts)
    floors = [fact for fact in facts if isinstance(fact.body, Floor)]
    best: dict[Slot, Fact] = {}
    for fact in sorted(facts, key=lambda fact: fact.rank):
        mine = [one.body.below for one in floors if one.slot.writer == fact.slot.writer]  # type: ignore[union-attr]
        if fact in floors or fact.sequence >= max(mine, default=0):
            best[fact.slot] = fact
    assert {fact.slot: fact for fact in kept} == best


@given(many, many)
def test_merge_returns_what_was_news_and_nothing_else(known: list[Fact], more: list[Fact]) -> None:
    facts = FactSet(known)
    before = facts.digest
    news = facts.merge(more)
    assert all(fact in more for fact in news)
    assert (facts.digest == before) == (not news)
    assert facts.merge(more) == []


def test_an_old_sequence_changes_nothing() -> None:
    facts = FactSet([sign(f.NODES[0], f.node_record(1), 5)])
    assert facts.merge([sign(f.NODES[0], f.node_record(2), 4)]) == []


def test_a_deletion_takes_the_place_of_what_it_deletes_and_stays() -> None:
    said, taken_back = (
        sign(f.NODES[0], f.attachment(0), 1),
        sign_deletion(f.NODES[0], "attachment", "default c1", 2),
    )
    facts = FactSet([taken_back, said])
    assert list(facts) == [taken_back]
    assert taken_back.deleted


@given(many, many)
def test_a_vector_tells_what_its_holder_lacks(known: list[Fact], more: list[Fact]) -> None:
    """As long as each writer's sequences rise, which is the writers' part."""
    log = _rising(known + more)
    behind, ahead = FactSet(log[: len(known)]), FactSet(log)
    behind.merge(ahead.since(behind.vector()))
    assert behind == ahead


@given(many)
def test_a_vector_is_that_of_the_facts_there_are_at_any_time(facts: list[Fact]) -> None:
    """Floors take the highest away, and of two floors the later may have the lower sequence."""
    kept = FactSet()
    for fact in facts:
        kept.merge([fact])
        assert kept.vector() == FactSet(kept).vector()
        assert kept.since(kept.vector()) == []
    for writer in kept.writers:
        kept.forget(writer)
        assert kept.vector() == FactSet(kept).vector()


def _rising(facts: list[Fact]) -> list[Fact]:
    """Give the same content with sequences that rise from fact to fact."""
    keys = {
        key.public: key
        for key in [*f.NODES, f.STRANGER, f.ISSUER, f.SECOND_ISSUER, f.FORGER, f.ROOT]
    }
    return [
        sign(keys[fact.slot.writer], fact.body, number)
        if fact.body is not None
        else sign_deletion(keys[fact.slot.writer], fact.slot.kind, fact.slot.key, number)
        for number, fact in enumerate(facts)
    ]


@given(many)
def test_forgetting_a_writer_is_as_if_it_had_never_written(facts: list[Fact]) -> None:
    kept = FactSet(facts)
    kept.forget(f.identity(0))
    others = FactSet(fact for fact in facts if fact.slot.writer != f.identity(0))
    assert kept == others
    assert kept.digest == others.digest


def test_no_repr_of_a_fact_holds_its_bytes() -> None:
    fact = sign(f.NODES[0], f.node_record(1), 1)
    assert "payload" not in repr(fact)
    assert isinstance(fact.slot, Slot)
