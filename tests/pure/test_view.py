"""Pure. The view: what holds of many facts, whoever brought them and in whatever order."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.model.facts import Fact, FactSet
from meshnet.model.keys import SigningKey
from meshnet.model.records import Record
from meshnet.model.statements import Issuer, Revocation, Statement, StaticRecord
from meshnet.model.view import Node, View, Viewer
from meshnet.wire.fact import sign, sign_deletion
from tests.pure import facts as f


def view_of(facts: list[Fact], now: float = f.NOW) -> View:
    return Viewer(f.ROOT.public).view(FactSet(facts), facts, now)


def node(view: View, index: int) -> Node:
    return view.nodes[f.identity(index).node_id]


def with_(*more: Fact) -> View:
    return view_of([*f.base(), *more])


# Order, repetition, carrier


@settings(max_examples=150)
@given(st.lists(f.signed_facts, max_size=12), st.data())
def test_any_order_repetition_and_carrier_give_the_same_view(
    more: list[Fact], data: st.DataObject
) -> None:
    facts = f.base() + more
    expected = view_of(facts)
    repeated = facts + data.draw(st.lists(st.sampled_from(facts), max_size=6))
    shuffled = data.draw(st.permutations(repeated))
    cut = data.draw(st.integers(0, len(shuffled)))
    mine, theirs = FactSet(shuffled[:cut]), FactSet(shuffled[cut:])
    mine.merge(theirs)
    assert Viewer(f.ROOT.public).view(mine, [], f.NOW) == expected


@settings(max_examples=200)
@given(st.data())
def test_a_view_grown_step_by_step_is_the_view_made_at_once(data: st.DataObject) -> None:
    """Time passes between steps, so that certificates and leases end on the way."""
    facts = FactSet()
    viewer = Viewer(f.ROOT.public)
    pool = data.draw(st.permutations(f.base()))
    now = float(f.NOW - 10)
    for _ in range(data.draw(st.integers(1, 8))):
        arriving = list(pool[: data.draw(st.integers(0, 12))])
        del pool[: len(arriving)]
        arriving += data.draw(st.lists(f.signed_facts, max_size=4))
        news = facts.merge(arriving)
        now += data.draw(st.sampled_from([0, 1, 10, 990, 2000]))
        grown = viewer.view(facts, news, now)
        assert grown == Viewer(f.ROOT.public).view(facts, list(facts), now)


@settings(max_examples=100)
@given(st.lists(f.signed_facts, max_size=12))
def test_in_every_view_nobody_has_what_is_not_theirs(more: list[Fact]) -> None:
    view = view_of(f.base() + more)
    taken: dict[object, str] = {}
    for one in view.nodes.values():
        leases = view.statements.leases.get(one.id, ())
        for port in one.attachments.values():
            for address in port.addresses:
                assert any(
                    address in lease.prefix for lease in leases if lease.network == port.network
                )
                assert taken.setdefault((port.network, address), one.id) == one.id
        for instance in one.instances:
            assert (instance.network, instance.attachment) in one.attachments
        for key in one.record.wireguard if one.record else ():
            others = [m for m in view.statements.memberships.values() if key in m.wireguard]
            assert not others or one.id in {m.node for m in others}
        assert one.membership.identity not in view.statements.revoked
        assert one.membership.not_after > f.NOW


# What holds


def test_a_member_speaks_and_is_heard() -> None:
    key = f.NODES[0]
    view = with_(
        sign(key, f.node_record(100), 1),
        sign(key, f.attachment(0), 2),
        sign(key, f.instance(), 3),
    )
    speaker = node(view, 0)
    assert speaker.record == f.node_record(100)
    assert list(speaker.attachments.values()) == [f.attachment(0)]
    assert speaker.instances == (f.instance(),)
    assert view.refusals == []


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (f.attachment(1), "in no lease of the node"),
        (f.attachment(0, host=1), "is the gateway"),
        (f.attachment(0, net="nowhere"), "there is no network"),
        (f.node_record(101), "belongs to node"),
        (f.instance("c9"), "no attachment c9"),
    ],
    ids=["someone else's lease", "the gateway", "no network", "someone else's key", "no home"],
)
def test_a_record_about_what_the_writer_does_not_own_is_refused(
    record: Record, reason: str
) -> None:
    view = with_(sign(f.NODES[0], record, 1))
    assert [refusal.writer for refusal in view.refusals] == [f.identity(0)]
    assert reason in str(view.refusals[0])
    assert node(view, 0) == replace(node(with_(), 0), refusals=tuple(view.refusals))


def test_an_address_of_a_lease_in_another_network_is_refused() -> None:
    facts = [fact for fact in f.base() if fact.slot.key != "appnet 10.214.0.0/26"]
    view = view_of([*facts, sign(f.NODES[0], f.attachment(0, net="appnet"), 1)])
    assert "in no lease" in view.refusals[0].reason


def test_an_instance_behind_a_refused_attachment_is_refused_too() -> None:
    view = with_(sign(f.NODES[0], f.attachment(1), 1), sign(f.NODES[0], f.instance(), 2))
    assert [refusal.kind for refusal in view.refusals] == ["attachment", "instance"]


@pytest.mark.parametrize(
    "body",
    [
        f.membership(0, f.LATER + 1),
        f.lease(1),
        f.network("default"),
        Revocation(f.identity(1)),
        Issuer(f.FORGER.public, f.LATER),
    ],
    ids=lambda body: body.KIND,
)
@pytest.mark.parametrize("writer", [f.NODES[0], f.FORGER, f.STRANGER], ids=str)
def test_a_statement_by_anyone_but_a_certified_issuer_says_nothing(
    writer: SigningKey, body: Statement
) -> None:
    view = with_(sign(writer, body, 1_000))
    assert view.statements == with_().statements


def test_an_issuer_the_root_did_not_certify_says_nothing_even_by_an_issuers_word() -> None:
    view = with_(
        sign(f.ISSUER, Issuer(f.FORGER.public, f.LATER), 100),
        sign(f.FORGER, Revocation(f.identity(0)), 101),
    )
    assert view.statements.revoked == frozenset()


def test_a_stranger_is_nobody() -> None:
    view = with_(sign(f.STRANGER, f.node_record(100), 1))
    assert f.STRANGER.public.node_id not in view.nodes


def test_deletion_takes_an_attachment_away_and_what_stands_behind_it() -> None:
    key = f.NODES[0]
    view = with_(
        sign(key, f.attachment(0), 1),
        sign(key, f.instance(), 2),
        sign_deletion(key, "attachment", "default c1", 3),
    )
    assert node(view, 0).attachments == {}
    assert node(view, 0).instances == ()
    assert "no attachment" in view.refusals[0].reason


def test_nobody_deletes_for_another() -> None:
    said = sign(f.NODES[0], f.attachment(0), 1)
    view = with_(said, sign_deletion(f.NODES[1], "attachment", "default c1", 9))
    assert list(node(view, 0).attachments.values()) == [f.attachment(0)]


def test_a_revoked_node_is_gone_with_all_it_said_whatever_certificate_it_shows() -> None:
    view = with_(
        sign(f.NODES[0], f.attachment(0), 1),
        sign(f.ISSUER, Revocation(f.identity(0)), 100),
        sign(f.ISSUER, f.membership(0, f.LATER + 5), 101),
    )
    assert f.identity(0).node_id not in view.nodes
    assert len(view.nodes) == 2


def test_when_its_certificate_ends_a_node_is_gone_and_with_a_new_one_back() -> None:
    facts = FactSet(f.base())
    viewer = Viewer(f.ROOT.public)
    short = sign(f.ISSUER, f.membership(0, f.NOW + 5), 100)
    said = sign(f.NODES[0], f.node_record(100), 1)
    present = viewer.view(facts, facts.merge([short, said]), f.NOW)
    gone = viewer.view(facts, [], f.NOW + 5)
    renewed = viewer.view(facts, facts.merge([sign(f.ISSUER, f.membership(0), 101)]), f.NOW + 5)
    there = [f.identity(0).node_id in view.nodes for view in (present, gone, renewed)]
    assert there == [True, False, True]
    assert node(renewed, 0).record == f.node_record(100)


def test_a_clock_that_is_set_back_gives_back_what_it_had_ended() -> None:
    viewer, facts = Viewer(f.ROOT.public), FactSet(f.base())
    before = viewer.view(facts, f.base(), f.NOW)
    assert viewer.holds(f.NOW + 1)
    assert viewer.view(facts, (), f.LATER).nodes == {}
    assert not viewer.holds(f.NOW + 1)
    assert viewer.view(facts, (), f.NOW + 1).nodes == before.nodes != {}


def test_when_a_lease_ends_the_addresses_in_it_hold_no_more() -> None:
    facts = FactSet(f.base())
    viewer = Viewer(f.ROOT.public)
    short = sign(f.ISSUER, f.lease(0, not_after=f.NOW + 5), 100)
    said = sign(f.NODES[0], f.attachment(0), 1)
    before = viewer.view(facts, facts.merge([short, said]), f.NOW)
    after = viewer.view(facts, [], f.NOW + 5)
    assert (len(node(before, 0).attachments), len(node(after, 0).attachments)) == (1, 0)


def test_when_a_network_goes_so_do_the_attachments_to_it() -> None:
    facts = FactSet(f.base())
    viewer = Viewer(f.ROOT.public)
    said = sign(f.NODES[0], f.attachment(0, net="appnet"), 1)
    before = viewer.view(facts, facts.merge([said]), f.NOW)
    removed = sign_deletion(f.ISSUER, "network", "appnet", 100)
    after = viewer.view(facts, facts.merge([removed]), f.NOW)
    assert (len(node(before, 0).attachments), len(node(after, 0).attachments)) == (1, 0)


def test_when_the_issuers_certificate_ends_so_does_all_it_said() -> None:
    view = view_of(f.base(), f.LATER)
    assert (view.nodes, view.networks, view.statements.mesh) == ({}, {}, None)


def test_of_two_issuers_the_later_statement_holds() -> None:
    second = sign(f.ROOT, Issuer(f.SECOND_ISSUER.public, f.LATER), 2)
    newer = msgspec.structs.replace(f.membership(0), name="renamed")
    view = with_(second, sign(f.SECOND_ISSUER, newer, 100))
    assert node(view, 0).name == "renamed"
    assert view.named("n0") is None


def test_of_two_who_proved_the_same_key_the_lower_node_id_has_it() -> None:
    shared = (f.wireguard(110),)
    statements = [sign(f.ISSUER, f.membership(n, keys=shared), 100 + n) for n in (0, 1)]
    records = [sign(f.NODES[n], f.node_record(110), 1) for n in (0, 1)]
    view = with_(*statements, *records)
    heard = sorted(one.id for one in view.nodes.values() if one.record is not None)
    assert heard == [min(f.identity(0).node_id, f.identity(1).node_id)]


def test_a_key_that_gets_an_owner_is_taken_from_whoever_claimed_it_before() -> None:
    facts = FactSet(f.base())
    viewer = Viewer(f.ROOT.public)
    claim = sign(f.NODES[0], f.node_record(110), 1)
    before = viewer.view(facts, facts.merge([claim]), f.NOW)
    proof = sign(f.ISSUER, f.membership(1, keys=(f.wireguard(110),)), 100)
    after = viewer.view(facts, facts.merge([proof]), f.NOW)
    assert node(before, 0).record is not None
    assert node(after, 0).record is None


def test_of_two_issuers_words_with_one_sequence_the_same_holds_everywhere() -> None:
    certified = sign(f.ROOT, Issuer(f.SECOND_ISSUER.public, f.LATER), 2)
    rivals = [
        sign(f.ISSUER, StaticRecord("x", "A", ("192.0.2.1",)), 500),
        sign(f.SECOND_ISSUER, StaticRecord("x", "A", ("192.0.2.2",)), 500),
    ]
    facts = [*f.base(), certified]
    views = [view_of([*facts, *order]) for order in (rivals, rivals[::-1])]
    grown = Viewer(f.ROOT.public)
    known = FactSet()
    for step in ([rivals[1]], facts, [rivals[0]]):
        views.append(grown.view(known, known.merge(step), f.NOW))
    winner = max(rivals, key=lambda fact: fact.payload)
    assert {view.statements.static for view in (*views[:2], views[-1])} == {(winner.body,)}


def test_one_writer_that_says_two_things_with_one_sequence_is_understood_alike_everywhere() -> None:
    said = [sign(f.NODES[0], f.node_record(100, port), 7) for port in (1, 2)]
    assert with_(*said) == with_(*said[::-1]) == with_(*said, said[0])
