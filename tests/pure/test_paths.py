"""Whom to probe, what silence means, and which endpoint to try: with a clock we turn by hand."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import BadInput
from meshnet.model.addresses import Endpoint
from meshnet.model.keys import PublicKey
from meshnet.model.records import Candidate
from meshnet.paths.endpoints import HEAD_START, TRY_FOR, Contact, Endpoints, ranked
from meshnet.paths.liveness import ANSWER_LIMIT, MISSES, SLOWEST, Liveness, Reach
from meshnet.plan.silence import silent
from meshnet.plan.state import PeerStatus
from meshnet.wire.probe import ANSWER, ASK, HINT_LIMIT, Hint, Probe

A, B = Endpoint.parse("192.0.2.1:51820"), Endpoint.parse("198.51.100.1:51820")


def run(liveness: Liveness, start: float, seconds: float, alive: set[str]) -> float:
    """Turn the clock in steps of 10 ms; peers in `alive` answer at once. Return the time."""
    now = start
    while now < start + seconds:
        liveness.missed(now)
        for node, nonce in liveness.due(now):
            if node in alive:
                liveness.answered(node, nonce, now)
        now += 0.01
    return now


def test_a_new_peer_is_unknown_until_it_answers() -> None:
    liveness = Liveness()
    liveness.set_peers({"a"}, 0.0)
    assert liveness.reach("a") is Reach.UNKNOWN
    run(liveness, 0.0, 0.05, {"a"})
    assert liveness.reach("a") is Reach.REACHABLE


def test_a_dead_peer_is_noticed_within_two_and_a_half_seconds_in_a_small_mesh() -> None:
    liveness = Liveness()
    liveness.set_peers({"a", "b"}, 0.0)
    now = run(liveness, 0.0, 10.0, {"a", "b"})
    now = run(liveness, now, 1.0 + MISSES * ANSWER_LIMIT + 0.2, {"a"})
    assert liveness.reachable == {"a"}
    assert liveness.reach("b") is Reach.UNREACHABLE


def test_one_lost_probe_takes_nobody_out() -> None:
    liveness = Liveness()
    liveness.set_peers({"a"}, 0.0)
    now = run(liveness, 0.0, 5.0, {"a"})
    now = run(liveness, now, 0.5, set())
    run(liveness, now, 2.0, {"a"})
    assert liveness.reach("a") is Reach.REACHABLE
    assert liveness.since("a") is not None
    assert liveness.since("a") < 1.0  # type: ignore[operator]


def test_who_was_not_looking_takes_nobody_out_and_asks_nobody_twice() -> None:
    liveness = Liveness()
    peers = {f"n{number}" for number in range(200)}
    liveness.set_peers(peers, 0.0)
    now = run(liveness, 0.0, 10.0, peers)
    asked: dict[str, int] = {}
    while now < 60.0:
        assert liveness.missed(now) == set()
        for node, nonce in liveness.due(now):
            assert node not in asked
            asked[node] = nonce
        now += 5.0
    assert liveness.reachable == peers
    for node, nonce in asked.items():
        liveness.answered(node, nonce, now)
    now = run(liveness, now, 2 * liveness.strain * liveness.idle_interval + 5, peers - {"n7"})
    assert liveness.reachable == peers - {"n7"}


def test_one_long_standstill_makes_a_node_ask_a_little_more_rarely_and_not_for_long() -> None:
    liveness = Liveness()
    peers = {f"n{number}" for number in range(50)}
    liveness.set_peers(peers, 0.0)
    now = run(liveness, 0.0, 20.0, peers)
    calm = liveness.strain

    now = run(liveness, now + 3600.0, 0.1, peers)

    assert calm < 1.1 < liveness.strain <= 3.1
    run(liveness, now, 20.0, peers)
    assert liveness.strain < 1.5


def test_nobody_is_forgotten_and_nothing_piles_up_whatever_happens() -> None:
    chance = random.Random(1)
    liveness = Liveness()
    peers = {f"n{number}" for number in range(30)}
    liveness.set_peers(peers, 0.0)
    asked = dict.fromkeys(peers, 0.0)
    now = 0.0
    while now < 300.0:
        now += chance.choice([0.01, 0.02, 0.1, 0.4])
        assert liveness.next_event(now) <= 2 * liveness.idle_interval
        liveness.missed(now)
        for node, nonce in list(liveness.due(now)):
            asked[node] = now
            if chance.random() < 0.6:
                liveness.answered(node, nonce, now)
        liveness.heard(chance.choice(sorted(peers)), now)
        liveness.suspect(chance.choice(sorted(peers)), now)
        assert now - min(asked.values()) < 2 * 5 * liveness.idle_interval + 5.0
    assert len(liveness._probes) + len(liveness._verdicts) < 500


def test_probes_of_a_large_mesh_are_spread_evenly() -> None:
    liveness = Liveness()
    peers = {f"n{number}" for number in range(1000)}
    liveness.set_peers(peers, 0.0)
    now = run(liveness, 0.0, 2.0, peers)
    counts = []
    for _ in range(200):
        sent = 0
        for _ in range(10):
            due = list(liveness.due(now))
            sent += len(due)
            for node, nonce in due:
                liveness.answered(node, nonce, now)
            now += 0.1
        counts.append(sent)
    assert 3 <= sum(counts) / len(counts) <= 6
    assert max(counts) <= 15


def test_a_path_slower_than_the_next_probe_is_a_path() -> None:
    liveness = Liveness()
    liveness.set_peers({"far"}, 0.0)
    under_way: list[tuple[float, int]] = []
    now = 0.0
    while now < 20.0:
        for due, nonce in under_way:
            if due <= now:
                liveness.answered("far", nonce, now)
        under_way = [(due, nonce) for due, nonce in under_way if due > now]
        liveness.missed(now)
        under_way += [(now + 0.7, nonce) for _, nonce in liveness.due(now)]
        now += 0.01
        assert now < 2.0 or liveness.reach("far") is Reach.REACHABLE
    assert liveness.round_trip("far") == pytest.approx(0.7, abs=0.05)


def test_a_node_to_which_all_answers_are_late_learns_to_wait_and_loses_nobody() -> None:
    liveness, peers = Liveness(), {f"n{number}" for number in range(20)}
    liveness.set_peers(peers, 0.0)
    now = run(liveness, 0.0, 10.0, peers)
    under_way: list[tuple[float, str, int]] = []
    lost: list[float] = []
    late = 4 * ANSWER_LIMIT
    while now < 90.0:
        lost += [now] * len(liveness.missed(now))
        under_way += [(now + late, node, nonce) for node, nonce in liveness.due(now)]
        while under_way and under_way[0][0] <= now:
            _, node, nonce = under_way.pop(0)
            liveness.answered(node, nonce, now)
        now += 0.01
    assert [at for at in lost if at > 30.0] == []
    assert liveness.reachable == peers


def test_a_node_that_loses_all_at_once_doubts_itself_and_waits_longer() -> None:
    liveness, peers = Liveness(), {f"n{number}" for number in range(20)}
    liveness.set_peers(peers, 0.0)
    now = run(liveness, 0.0, 10.0, peers)
    assert not liveness.is_deaf
    now = run(liveness, now, 3.0, set())
    assert liveness.is_deaf
    assert liveness.answer_limit > 2 * ANSWER_LIMIT
    run(liveness, now, 60.0, peers)
    assert not liveness.is_deaf
    assert liveness.reachable == peers


def test_a_peer_that_dies_alone_is_given_no_more_time_than_ever() -> None:
    for others in (0, 1, 5):
        liveness, peers = Liveness(), {f"n{number}" for number in range(others + 1)}
        liveness.set_peers(peers, 0.0)
        now = run(liveness, 0.0, 10.0, peers)
        run(liveness, now, 1.0 + MISSES * ANSWER_LIMIT + 0.2, peers - {"n0"})
        assert liveness.reachable == peers - {"n0"}
        assert not liveness.is_deaf


def test_a_path_that_becomes_slow_and_uneven_is_no_path_that_is_gone() -> None:
    chance, liveness = random.Random(2), Liveness()
    peers = {f"n{number}" for number in range(5)}
    liveness.set_peers(peers, 0.0)
    under_way: list[tuple[float, int]] = []
    lost: list[float] = []
    now = run(liveness, 0.0, 5.0, peers)
    while now < 120.0:
        slowness = min(2.0, (now - 5.0) / 10)
        for due, nonce in under_way:
            if due <= now:
                liveness.answered("n0", nonce, now)
        under_way = [(due, nonce) for due, nonce in under_way if due > now]
        lost += [now] * len(liveness.missed(now))
        for node, nonce in liveness.due(now):
            if node == "n0":
                under_way.append((now + slowness * chance.uniform(0.5, 1.5), nonce))
            else:
                liveness.answered(node, nonce, now)
        now += 0.01
    assert lost == []
    run(liveness, now, 1.0 + MISSES * SLOWEST + 0.5, peers - {"n0"})
    assert liveness.reachable == peers - {"n0"}


def test_a_first_answer_that_waited_for_a_handshake_makes_no_path_slow() -> None:
    liveness = Liveness()
    liveness.set_peers({"a", "b"}, 0.0)
    asked = dict(liveness.due(0.0))
    for node, nonce in asked.items():
        liveness.answered(node, nonce, 5.0)
    now = run(liveness, 5.0, 3.0, {"a", "b"})
    run(liveness, now, 1.0 + MISSES * ANSWER_LIMIT + 0.2, {"a"})
    assert liveness.reachable == {"a"}


def test_a_hint_makes_us_ask_at_once_and_believe_nothing() -> None:
    liveness = Liveness()
    liveness.set_peers({"a"}, 0.0)
    now = run(liveness, 0.0, 3.5, {"a"})
    assert not list(liveness.due(now))
    liveness.suspect("a", now)
    assert [node for node, _ in liveness.due(now)] == ["a"]
    assert liveness.reach("a") is Reach.REACHABLE


def test_a_hint_about_a_peer_that_has_just_answered_is_passed_over() -> None:
    liveness = Liveness()
    liveness.set_peers({"a"}, 0.0)
    now = run(liveness, 0.0, 0.05, {"a"})
    liveness.suspect("a", now)
    assert not list(liveness.due(now))


def test_a_node_of_a_large_mesh_that_comes_late_to_its_turns_asks_less_often() -> None:
    sent = []
    for late in (0.0, 0.5):
        liveness = Liveness()
        liveness.set_peers({f"n{number}" for number in range(50)}, 0.0)
        now, count = 0.0, 0
        while now < 100.0:
            now += max(0.01, liveness.next_event(now)) + late
            liveness.missed(now)
            for node, nonce in liveness.due(now):
                count += 1
                liveness.answered(node, nonce, now)
        sent.append(count)
    assert sent[1] < sent[0] / 2


def test_all_of_a_hundred_nodes_know_within_four_seconds_that_one_is_gone() -> None:
    names = {f"n{number}" for number in range(100)}
    nodes = {name: Liveness(own=name) for name in names - {"n0"}}
    for name, liveness in nodes.items():
        liveness.set_peers(names - {name}, 0.0)
        assert liveness.is_sparse
    now = 0.0
    while now < 15.0 or any("n0" in one.reachable for one in nodes.values()):
        found = False
        for liveness in nodes.values():
            found |= "n0" in liveness.missed(now)
            for node, nonce in liveness.due(now):
                if node != "n0" or now < 15.0:
                    liveness.answered(node, nonce, now)
        if found:
            for liveness in nodes.values():
                liveness.suspect("n0", now)
        now += 0.05
    assert now - 15.0 <= 4.0


def test_a_peer_that_gets_packets_and_says_nothing_is_named() -> None:
    key = [PublicKey(bytes([number]) * 32) for number in range(4)]
    before = {one: PeerStatus(1.0, received=100, sent=100) for one in key[:3]}
    after = {
        key[0]: PeerStatus(1.0, received=100, sent=200),
        key[1]: PeerStatus(1.0, received=101, sent=200),
        key[2]: PeerStatus(1.0, received=100, sent=100),
        key[3]: PeerStatus(1.0, received=0, sent=100),
    }
    assert silent(before, after) == [key[0]]


def test_an_answer_with_another_nonce_says_nothing() -> None:
    liveness = Liveness()
    liveness.set_peers({"a"}, 0.0)
    [(node, nonce)] = liveness.due(0.0)
    assert liveness.answered(node, nonce + 1, 0.1) == set()
    assert liveness.reach("a") is Reach.UNKNOWN


@given(st.integers(1, 2000))
def test_a_node_never_sends_over_six_probes_a_second_once_all_answer(count: int) -> None:
    liveness = Liveness()
    peers = {f"n{number}" for number in range(count)}
    liveness.set_peers(peers, 0.0)
    for node, nonce in list(liveness.due(0.0)):
        liveness.answered(node, nonce, 0.0)
    assert count / liveness.idle_interval <= 6
    assert liveness.next_event(0.0) >= 0.9


def test_the_one_who_begins_tries_at_once_and_the_other_after_its_head_start() -> None:
    first, second = Endpoints(), Endpoints()
    assert first.step({"p": Contact((A, B), begin=True)}, frozenset(), 0.0) == {"p": A}
    contact = {"p": Contact((A, B), begin=False)}
    assert second.step(contact, frozenset(), 0.0) == {}
    assert second.step(contact, frozenset(), HEAD_START + 0.01) == {"p": A}


def test_candidates_are_tried_in_turn_until_the_peer_answers() -> None:
    endpoints = Endpoints()
    contact = {"p": Contact((A, B), begin=True)}
    tried = [
        endpoints.step(contact, frozenset(), turn * (TRY_FOR + 0.1)).get("p") for turn in range(4)
    ]
    assert tried == [A, B, A, B]
    assert endpoints.step(contact, frozenset({"p"}), 100.0) == {}


def test_a_peer_that_is_lost_again_starts_over_with_the_best_candidate() -> None:
    endpoints = Endpoints()
    contact = {"p": Contact((A, B), begin=True)}
    endpoints.step(contact, frozenset(), 0.0)
    endpoints.step(contact, frozenset({"p"}), 1.0)
    assert endpoints.step(contact, frozenset(), 50.0) == {"p": A}


def turns(endpoints: Endpoints, seconds: int) -> list[int]:
    """Return when another candidate is tried in so many seconds."""
    contact, found, last = {"p": Contact((A, B), begin=True)}, [], None
    for now in range(seconds):
        chosen = endpoints.step(contact, frozenset(), float(now))["p"]
        if chosen != last:
            found.append(now)
        last = chosen
    return found


def test_a_peer_that_is_off_for_long_is_tried_more_and_more_rarely() -> None:
    found = turns(Endpoints(), 100_000)
    pauses = [later - sooner for sooner, later in pairwise(found)]
    assert pauses[:4] == [6, 6, 6, 6]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 44


def test_after_a_move_all_is_tried_again_at_once() -> None:
    endpoints = Endpoints()
    turns(endpoints, 1000)
    endpoints.moved()
    assert turns(endpoints, 14) == [0, 6, 12]


def test_a_peer_with_nothing_else_to_try_keeps_nobody_awake() -> None:
    endpoints = Endpoints()
    endpoints.step({"p": Contact((A,), begin=True), "q": Contact((), begin=True)}, frozenset(), 0.0)
    assert endpoints.next_event(100.0) is None
    endpoints.step({"p": Contact((A, B), begin=True)}, frozenset(), 0.0)
    assert endpoints.next_event(1.0) == TRY_FOR - 1.0


def test_candidates_on_a_subnet_of_ours_come_first_and_those_in_the_mesh_never() -> None:
    own = [ip_interface("198.51.100.7/24")]
    candidates = [
        Candidate(A, "local"),
        Candidate(B, "observed"),
        Candidate(Endpoint(ip_address("10.213.0.9"), 1), "local"),
        Candidate(Endpoint(ip_address("2001:db8::1"), 1), "local"),
    ]
    assert ranked(candidates, own, [ip_network("10.213.0.0/16")]) == (B, A)


@given(st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16))
def test_a_probe_survives_the_wire(nonce: int, digest: bytes) -> None:
    for kind in (ASK, ANSWER):
        probe = Probe(kind, nonce, digest.hex())
        assert Probe.parse(probe.pack()) == probe


@given(st.lists(st.ip_addresses(v=4), min_size=1, max_size=HINT_LIMIT))
def test_a_hint_survives_the_wire(addresses: list[IPv4Address]) -> None:
    hint = Hint(tuple(addresses))
    assert Hint.parse(hint.pack()) == hint


@given(st.binary(max_size=16) | st.binary(max_size=300).map(lambda body: b"mnh1" + body))
def test_bytes_that_are_no_hint_are_bad_input_and_nothing_else(data: bytes) -> None:
    try:
        hint = Hint.parse(data)
    except BadInput:
        return
    assert hint.pack() == data


@given(st.binary(max_size=64))
def test_bytes_that_are_no_probe_are_bad_input_and_nothing_else(data: bytes) -> None:
    try:
        probe = Probe.parse(data)
    except BadInput:
        return
    assert probe.pack() == data


def test_an_endpoint_without_a_port_is_refused() -> None:
    with pytest.raises(BadInput, match="ADDRESS:PORT"):
        Endpoint.parse("192.0.2.1")
