"""Pure. Names: what may be one, and that nothing with another gets in, whoever signed it."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import BadInput
from meshnet.model.facts import Fact
from meshnet.model.keys import SigningKey
from meshnet.model.names import RESERVED, check_name, is_label, label_from
from meshnet.wire.fact import CONTEXT, open_fact, seal, sign
from tests.pure import facts as f

GOOD = ["a", "0", "web-1", "x" * 63, "4you", "xn--bcher-kva"]
BAD = ["", "-a", "a-", "A", "a.b", "a_b", "a b", "x" * 64, "ä", "a\n", "a\0", *sorted(RESERVED)]
LETTERS = string.ascii_lowercase + string.digits + "-"


@pytest.mark.parametrize("name", GOOD)
def test_a_label_is_a_name(name: str) -> None:
    assert check_name(name, "node") == name


@pytest.mark.parametrize("name", BAD, ids=repr)
def test_what_is_no_label_or_means_something_already_is_refused_and_said_why(name: str) -> None:
    with pytest.raises(BadInput, match=r"node name .* is (not a DNS label|reserved)") as caught:
        check_name(name, "node")
    assert caught.value.hint


@given(st.text(alphabet=LETTERS + "A._ä", max_size=70))
def test_a_label_is_what_rfc_1123_says(text: str) -> None:
    inside = 1 <= len(text) <= 63 and all(char in LETTERS for char in text)
    assert is_label(text) == (inside and text[0] != "-" and text[-1] != "-")


@given(st.text(max_size=100))
def test_a_host_name_gives_a_label_or_nothing(text: str) -> None:
    label = label_from(text)
    assert label == "" or is_label(label)


@pytest.mark.parametrize("name", ["Web", "localhost", "x" * 64, "a.b", ""], ids=repr)
@pytest.mark.parametrize(
    ("key", "body", "old"),
    [
        (f.ISSUER, f.membership(0), '"name":"n0"'),
        (f.ISSUER, f.network("appnet"), '"name":"appnet"'),
        (f.NODES[0], f.attachment(0, "c1"), '"name":"c1"'),
        (f.NODES[0], f.instance("c1", "web"), '"service":"web"'),
    ],
    ids=lambda value: getattr(value, "KIND", ""),
)
def test_a_fact_about_a_bad_name_is_no_fact_even_signed_by_who_may(
    key: SigningKey, body: object, old: str, name: str
) -> None:
    fact = sign(key, body, 1)  # type: ignore[arg-type]
    word = old.split(":")[0]
    payload = fact.payload.decode().replace(old, f'{word}:"{name}"')
    assert payload.encode() != fact.payload
    forged = Fact(fact.slot, 1, None, False, payload.encode(), key.sign(CONTEXT + payload.encode()))
    with pytest.raises(BadInput, match=r"is not a DNS label|is reserved"):
        open_fact(seal(forged))
