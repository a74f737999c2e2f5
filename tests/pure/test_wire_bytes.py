"""Pure. Whatever bytes come by a wire of ours: a value that is right, or an error of ours."""

from __future__ import annotations

import inspect
import json
from contextlib import suppress
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.errors import BadInput, MeshnetError
from meshnet.wire import api, codec, echo, local
from meshnet.wire.probe import Probe

plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(("10.214.0.5", "fd00::1/64", "web", "80", "192.0.2.1:51820", "a" * 64))
)
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


def messages(module: ModuleType) -> list[type[msgspec.Struct]]:
    """Return the messages that a module of the wire defines."""
    found = [kind for _, kind in inspect.getmembers(module, inspect.isclass)]
    return [
        kind
        for kind in found
        if issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__
    ]


MESSAGES = messages(api) + messages(local)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
@settings(max_examples=25)
@given(data=st.data())
def test_any_json_is_a_message_or_an_error(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    """A message with the right fields and anything in them; what is read is written again."""
    names = [field.encode_name for field in msgspec.structs.fields(kind)]
    fields = st.fixed_dictionaries({}, optional=dict.fromkeys(names, values))
    drawn: Any = data.draw(fields | values)
    try:
        read = codec.decode(json.dumps(drawn), kind, "message")
    except BadInput as error:
        assert error.message.startswith("message is not valid: ")
    else:
        assert codec.decode(codec.encode(read), kind, "message") == read


@given(st.sampled_from(MESSAGES), st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(kind: type[msgspec.Struct], raw: bytes) -> None:
    with suppress(BadInput):
        codec.decode(raw, kind, "message")


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda tail: b"mnp1" + tail))
def test_any_packet_is_a_probe_or_an_error(packet: bytes) -> None:
    try:
        probe = Probe.parse(packet)
    except BadInput:
        return
    assert Probe.parse(probe.pack()) == probe


IPV4 = bytes([0x45]) + bytes(19)
HEADERS = st.integers(0x45, 0x4F).map(lambda first: bytes([first]).ljust(4 * (first & 15), b"\0"))


@given(HEADERS, st.binary(max_size=60))
def test_what_an_echo_brings_back_is_what_was_sent(header: bytes, data: bytes) -> None:
    request = echo.pack(data)
    assert echo.checksum(request) == 0
    assert echo.parse(header + bytes([echo.REPLY]) + request[1:]) == data
    with pytest.raises(BadInput):
        echo.parse(header + request)


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda tail: IPV4 + tail))
def test_any_packet_is_a_reply_to_an_echo_or_an_error(packet: bytes) -> None:
    with suppress(BadInput):
        echo.parse(packet)


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40), st.integers())
def test_any_refusal_becomes_an_error_of_ours(code: str, text: str, hint: str, status: int) -> None:
    assert isinstance(api.error_from(api.Problem(code, text, hint), status), MeshnetError)
    assert isinstance(
        local.rebuild(local.ErrorReply(error=code, message=text, hint=hint)), MeshnetError
    )
