"""Pure. Signed requests and proofs of possession: what holds, and every way it must not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.coordinator.challenge import check_challenge, ephemeral, make_challenge
from meshnet.coordinator.limits import GUESSES, Guesses, Once, source_key
from meshnet.errors import NotAuthentic, RateLimited
from meshnet.model.keys import PrivateKey, PublicKey, SigningKey
from meshnet.wire import auth

KEY = SigningKey(bytes(range(32)))
OTHER = SigningKey(bytes(32))
WIREGUARD = PrivateKey.from_random(bytes(range(32)))
PIN, NONCE, NOW = "ab" * 32, bytes(16), 1_800_000_000
LINE = auth.RequestLine("POST", "/v1/publish", b"{}", PIN)
seeds = st.binary(min_size=32, max_size=32)


def claim(**changes: object) -> auth.JoinClaim:
    base = auth.JoinClaim("n1", KEY.public, WIREGUARD.public, bytes(16), bytes(40), PIN)
    return replace(base, **changes)


@given(
    seeds.map(SigningKey),
    st.sampled_from(["GET", "POST", "DELETE"]),
    st.text(max_size=40),
    st.binary(max_size=100),
    st.integers(0, 1 << 40),
    st.binary(min_size=16, max_size=16),
)
def test_a_signed_request_holds(
    key: SigningKey, method: str, path: str, body: bytes, time: int, nonce: bytes
) -> None:
    line = auth.RequestLine(method, path, body, PIN)
    credentials = auth.read_credentials(auth.sign_request(key, line, time, nonce))
    credentials.verify(line)
    assert (credentials.identity, credentials.time, credentials.nonce) == (key.public, time, nonce)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "GET"},
        {"path": "/v1/renew"},
        {"path": "/v1/publish?"},
        {"body": b"{} "},
        {"pin": "ac" * 32},
    ],
    ids=str,
)
def test_a_signature_holds_for_no_other_request(changed: dict[str, object]) -> None:
    credentials = auth.read_credentials(auth.sign_request(KEY, LINE, NOW, NONCE))
    with pytest.raises(NotAuthentic):
        credentials.verify(replace(LINE, **changed))


@pytest.mark.parametrize(
    "changed", [{"identity": OTHER.public}, {"time": NOW + 1}, {"nonce": b"\1" * 16}], ids=str
)
def test_a_signature_holds_for_no_other_head(changed: dict[str, object]) -> None:
    credentials = auth.read_credentials(auth.sign_request(KEY, LINE, NOW, NONCE))
    with pytest.raises(NotAuthentic):
        replace(credentials, **changed).verify(LINE)


@given(
    st.text(max_size=200)
    | st.text(max_size=200).map(lambda text: f"Meshnet1 {text}")
    | st.lists(st.text(max_size=50), min_size=4, max_size=4).map(
        lambda parts: "Meshnet1 " + ".".join(parts)
    )
)
def test_any_header_is_credentials_or_not_authentic(header: str) -> None:
    with pytest.raises(NotAuthentic):
        auth.read_credentials(header)


@given(st.data())
def test_a_header_with_one_other_character_does_not_hold(data: st.DataObject) -> None:
    header = auth.sign_request(KEY, LINE, NOW, NONCE)
    at = data.draw(st.integers(0, len(header) - 1))
    other = data.draw(st.sampled_from(sorted(set("Aa0.-_ ~") - {header[at]})))
    with pytest.raises(NotAuthentic):
        auth.read_credentials(header[:at] + other + header[at + 1 :]).verify(LINE)


@given(seeds, seeds)
def test_both_ends_of_a_key_exchange_compute_the_same_proof(mine: bytes, theirs: bytes) -> None:
    node, server = PrivateKey.from_random(mine), PrivateKey.from_random(theirs)
    transcript = claim(wireguard=node.public).transcript()
    mac = auth.prove(node, server.public, transcript)
    auth.check_proof(server, node.public, transcript, mac)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "n2"},
        {"identity": OTHER.public},
        {"secret": b"\1" * 16},
        {"challenge": b"\1" * 40},
        {"pin": "ac" * 32},
    ],
    ids=str,
)
def test_a_proof_of_a_join_holds_for_no_other_join(changed: dict[str, object]) -> None:
    server = PrivateKey.from_random(b"\7" * 32)
    mac = auth.prove(WIREGUARD, server.public, claim().transcript())
    with pytest.raises(NotAuthentic):
        auth.check_proof(server, WIREGUARD.public, claim(**changed).transcript(), mac)


def test_a_proof_by_another_wireguard_key_does_not_hold() -> None:
    server, thief = PrivateKey.from_random(b"\7" * 32), PrivateKey.from_random(b"\6" * 32)
    mac = auth.prove(thief, server.public, claim().transcript())
    with pytest.raises(NotAuthentic):
        auth.check_proof(server, WIREGUARD.public, claim().transcript(), mac)


def test_a_key_of_small_order_proves_nothing() -> None:
    server = PrivateKey.from_random(b"\7" * 32)
    with pytest.raises(NotAuthentic):
        auth.check_proof(server, PublicKey(bytes(32)), b"", bytes(32))


def test_the_secret_is_in_no_repr_of_a_join() -> None:
    assert repr(b"s" * 16) not in repr(claim(secret=b"s" * 16))


# Challenges


@given(st.binary(min_size=16, max_size=16), st.integers(0, 60))
def test_a_challenge_holds_for_a_minute(random: bytes, later: int) -> None:
    challenge = make_challenge(b"s" * 32, NOW, random)
    assert check_challenge(b"s" * 32, challenge, NOW + later) == NOW + 60


def test_a_challenge_ends_after_a_minute() -> None:
    challenge = make_challenge(b"s" * 32, NOW, bytes(16))
    with pytest.raises(NotAuthentic, match="too old"):
        check_challenge(b"s" * 32, challenge, NOW + 61)


@given(st.binary(max_size=80))
def test_no_other_bytes_are_a_challenge(data: bytes) -> None:
    with pytest.raises(NotAuthentic):
        check_challenge(b"s" * 32, data, NOW)


def test_a_challenge_of_another_process_does_not_hold() -> None:
    with pytest.raises(NotAuthentic):
        check_challenge(b"t" * 32, make_challenge(b"s" * 32, NOW, bytes(16)), NOW)


def test_each_challenge_has_a_key_of_its_own() -> None:
    challenges = [make_challenge(b"s" * 32, NOW, bytes([n]) * 16) for n in range(5)]
    assert len({ephemeral(b"s" * 32, challenge).public for challenge in challenges}) == 5


# Once, and guesses


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=50))
def test_a_key_is_taken_once_while_it_lives(steps: list[tuple[int, int]]) -> None:
    once, ends, now = Once(), dict[int, int](), 0
    for key, pause in steps:
        now += pause
        first = once.take(bytes([key]), now + 60, now)
        if key in ends and now <= ends[key]:
            assert not first
        else:
            ends[key] = now + 60


def test_what_has_ended_is_not_remembered_for_ever() -> None:
    once = Once()
    for number in range(10_000):
        once.take(number.to_bytes(4, "big"), number + 60, number)
    assert len(once) < 100


def test_guesses_run_out_and_come_back_with_time() -> None:
    guesses = Guesses()
    for _ in range(GUESSES):
        guesses.check("192.0.2.1", 0)
        guesses.failed("192.0.2.1", 0)
    with pytest.raises(RateLimited):
        guesses.check("192.0.2.1", 1)
    guesses.check("192.0.2.2", 1)
    guesses.check("192.0.2.1", 6)


def test_a_whole_64_of_ipv6_is_one_source_and_a_mapped_address_is_ipv4() -> None:
    assert (
        source_key("2001:db8::1") == source_key("2001:db8::ffff") != source_key("2001:db8:0:1::1")
    )
    assert source_key("::ffff:192.0.2.1") == source_key("192.0.2.1")


def test_guesses_are_remembered_of_a_bounded_number_of_sources() -> None:
    guesses = Guesses()
    for number in range(20_000):
        guesses.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0)
    assert len(guesses) == 10_000
