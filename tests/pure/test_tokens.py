"""Pure. Join tokens: what is written is read, and every accident has its own name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import BadInput, TokenDamaged, TokenError, TokenTruncated
from meshnet.model.keys import IdentityKey
from meshnet.wire.token import Token, check_url, read_token, write_token

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
HOSTS = ["coordinator.example", "192.0.2.1", "[2001:db8::1]", "a"]
urls = st.builds(
    lambda host, port: f"https://{host}" + (f":{port}" if port else ""),
    st.sampled_from(HOSTS),
    st.integers(0, 65535),
)
tokens = st.builds(
    Token,
    urls=st.lists(urls, min_size=1, max_size=16).map(tuple),
    pins=st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), min_size=1, max_size=16).map(
        tuple
    ),
    root=st.binary(min_size=32, max_size=32).map(IdentityKey),
    secret=st.binary(min_size=16, max_size=16),
)


@given(tokens)
def test_what_is_written_is_read(token: Token) -> None:
    assert read_token(write_token(token)) == token


@given(tokens)
def test_a_token_is_read_despite_white_space_around_it(token: Token) -> None:
    assert read_token(f"\n  {write_token(token)}\r\n") == token


@given(tokens, st.data())
def test_a_token_cut_short_anywhere_is_called_truncated(token: Token, data: st.DataObject) -> None:
    text = write_token(token)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(TokenTruncated):
        read_token(cut)


@given(tokens, st.data())
def test_a_token_with_one_other_character_is_called_damaged(
    token: Token, data: st.DataObject
) -> None:
    text = write_token(token)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(sorted(set(ALPHABET) - {text[at]})))
    with pytest.raises(TokenDamaged):
        read_token(text[:at] + other + text[at + 1 :])


@given(tokens, st.text(st.sampled_from(ALPHABET), min_size=1, max_size=20))
def test_a_token_with_more_behind_it_is_called_damaged(token: Token, more: str) -> None:
    with pytest.raises(TokenDamaged):
        read_token(write_token(token) + more)


@given(st.text(max_size=300) | st.text(ALPHABET, max_size=300).map(lambda text: "mnt1." + text))
def test_any_text_is_a_token_or_an_error_of_ours(text: str) -> None:
    try:
        read_token(text)
    except TokenError as error:
        assert error.hint


def test_the_secret_is_in_no_repr() -> None:
    secret = bytes(range(100, 116))
    token = Token(("https://a",), ("00" * 32,), IdentityKey(bytes(32)), secret)
    shown = f"{token!r} {token}"
    assert not any(form in shown for form in (repr(secret)[2:-1], secret.hex(), str(secret)))


@pytest.mark.parametrize(
    "url",
    [
        "http://a",
        "https://",
        "https://a/",
        "https://a/path",
        "https://a?x",
        "https://a#x",
        "https://u:p@a",
        "https://a:0",
        "https://a:65536",
        "https://a:x",
        "https://a b",
        "https://[::1",
        "https://ä",
        "a:7443",
        "",
        "https://" + "a" * 300,
    ],
)
def test_what_is_no_coordinators_url_is_refused(url: str) -> None:
    with pytest.raises(BadInput):
        check_url(url)
