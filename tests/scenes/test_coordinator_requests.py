"""Shell. Requests a coordinator must not believe: each gets its status, and changes nothing."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshnet.model.keys import SigningKey
from meshnet.wire import api, auth, codec
from meshnet.wire.fact import seal
from tests.scenes.coordinators import Coordinator, Node, joined, running

MEMBERS_ONLY = [
    ("POST", api.RENEW),
    ("POST", api.LEASES),
    ("POST", api.PUBLISH),
    ("POST", api.LEAVE),
    ("POST", api.NETWORKS),
    ("DELETE", api.NETWORKS + "/default"),
    ("GET", api.WATCH),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """One coordinator for scenes that change nothing."""
    with running(tmp_path_factory.mktemp("coordinator")) as coordinator:
        yield coordinator


@pytest.fixture(scope="module")
def member(shared: Coordinator) -> Node:
    """A node that has joined it."""

    async def join() -> Node:
        async with joined(shared, "member") as [node]:
            return node

    return asyncio.run(join())


class Raw:
    """Plain HTTP over TLS, without our client's manners."""

    def __init__(self, coordinator: Coordinator) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        host, _, port = coordinator.url.removeprefix("https://").partition(":")
        self._line = http.client.HTTPSConnection(host, int(port), context=context, timeout=20)
        self.pin = coordinator.made.pin

    def __call__(
        self, method: str, path: str, body: bytes = b"", header: str = ""
    ) -> tuple[int, str]:
        """Return status and error code; the connection is made anew each time."""
        self._line.close()
        headers = {"Authorization": header} if header else {}
        self._line.request(method, path, body, headers)
        answer = self._line.getresponse()
        text = b"" if answer.status == 200 and path == api.WATCH else answer.read()
        try:
            return answer.status, json.loads(text).get("code", "")
        except ValueError:
            return answer.status, ""

    def signed(
        self,
        key: SigningKey,
        method: str,
        path: str,
        body: bytes = b"",
        at: float | None = None,
        nonce: bytes | None = None,
    ) -> str:
        line = auth.RequestLine(method, path, body, self.pin)
        when = int(time.time() if at is None else at)
        return auth.sign_request(key, line, when, nonce or os.urandom(16))


@pytest.fixture
def raw(shared: Coordinator) -> Iterator[Raw]:
    """A raw line, and the check that nothing has changed by what was sent over it."""
    before = shared.fingerprint
    yield Raw(shared)
    assert shared.fingerprint == before


@pytest.mark.parametrize(("method", "path"), MEMBERS_ONLY)
def test_without_a_signature_the_answer_is_401(raw: Raw, method: str, path: str) -> None:
    assert raw(method, path, b"{}") == (401, "not-authentic")


@pytest.mark.parametrize(("method", "path"), MEMBERS_ONLY)
def test_a_strangers_signature_gets_403(raw: Raw, method: str, path: str) -> None:
    stranger = SigningKey(os.urandom(32))
    header = raw.signed(stranger, method, path, b"{}")
    assert raw(method, path, b"{}", header) == (403, "refused")


@pytest.mark.parametrize(("method", "path"), MEMBERS_ONLY)
def test_a_members_name_with_a_strangers_signature_gets_401(
    raw: Raw, member: Node, method: str, path: str
) -> None:
    forged = raw.signed(SigningKey(os.urandom(32)), method, path, b"{}")
    _, _, rest = forged.partition(".")
    header = f"{auth.SCHEME} {member.identity.public}.{rest}"
    assert raw(method, path, b"{}", header) == (401, "not-authentic")


def test_a_signature_for_another_body_path_or_coordinator_gets_401(raw: Raw, member: Node) -> None:
    body = codec.encode(api.PublishRequest((seal(member.say(member.record())),)))
    key = member.identity
    elsewhere = auth.RequestLine("POST", api.PUBLISH, body, "00" * 32)
    for header in (
        raw.signed(key, "POST", api.PUBLISH, body + b" "),
        raw.signed(key, "POST", api.RENEW, body),
        raw.signed(key, "PUT", api.PUBLISH, body),
        auth.sign_request(key, elsewhere, int(time.time()), os.urandom(16)),
    ):
        assert raw("POST", api.PUBLISH, body, header) == (401, "not-authentic")


def test_a_request_sent_again_gets_401(shared: Coordinator, member: Node) -> None:
    raw = Raw(shared)
    body = codec.encode(api.PublishRequest((seal(member.say(member.record())),)))
    header = raw.signed(member.identity, "POST", api.PUBLISH, body)
    assert raw("POST", api.PUBLISH, body, header) == (200, "")
    assert raw("POST", api.PUBLISH, body, header) == (401, "not-authentic")


@pytest.mark.parametrize("off", [-3600, -61, 62, 3600])
def test_a_request_of_another_time_gets_401_and_the_time_here(
    raw: Raw, member: Node, off: int
) -> None:
    header = raw.signed(member.identity, "POST", api.PUBLISH, b"{}", at=time.time() + off)
    assert raw("POST", api.PUBLISH, b"{}", header) == (401, api.CLOCK)


async def test_a_node_whose_clock_is_off_signs_again_by_the_coordinators(
    shared: Coordinator, member: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    try:
        with monkeypatch.context() as patched:
            patched.setattr("meshnet.agent.client.time.time", lambda: right() + 7200)
            stranger_to_time = Node("member", member.token, member.identity)
            answer = await stranger_to_time.client.publish([])
    finally:
        await stranger_to_time.client.close()
    assert answer.refused == ()


@pytest.mark.parametrize("path", [api.JOIN, api.PUBLISH, api.RENEW, api.LEASES, api.NETWORKS])
def test_a_body_that_is_too_large_gets_413(raw: Raw, member: Node, path: str) -> None:
    body = b'"' + b"x" * api.BODY_LIMIT + b'"'
    header = raw.signed(member.identity, "POST", path, body)
    assert raw("POST", path, body, header) == (413, api.TOO_LARGE)


@pytest.mark.parametrize("path", [api.JOIN, api.PUBLISH, api.RENEW, api.LEASES, api.NETWORKS])
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"null", b"[" * 100_000], ids=repr)
def test_a_malformed_body_gets_400(raw: Raw, member: Node, path: str, body: bytes) -> None:
    header = raw.signed(member.identity, "POST", path, body)
    assert raw("POST", path, body, header) == (400, "bad-input")


def test_too_many_facts_at_once_get_400(raw: Raw, member: Node) -> None:
    fact = seal(member.say(member.record()))
    body = codec.encode(api.PublishRequest((fact,) * (api.FACTS_LIMIT + 1)))
    header = raw.signed(member.identity, "POST", api.PUBLISH, body)
    assert raw("POST", api.PUBLISH, body, header) == (400, "bad-input")


@pytest.mark.parametrize("query", ["x", "-1", "1.5", "٣", "9" * 30, "1%00"])
def test_a_revision_that_is_none_gets_400(raw: Raw, member: Node, query: str) -> None:
    target = quote(f"{api.WATCH}?revision={query}", safe="/?=%")
    header = raw.signed(member.identity, "GET", target)
    assert raw("GET", target, b"", header) == (400, "bad-input")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v2/hello", 404), ("GET", api.JOIN, 405), ("PUT", api.JOIN, 405)],
)
def test_what_is_not_there_gets_its_status(raw: Raw, method: str, path: str, status: int) -> None:
    assert raw(method, path) == (status, "http")


def test_health_and_metrics_are_answered(raw: Raw) -> None:
    assert raw("GET", api.HEALTH)[0] == 200
    assert raw("GET", api.METRICS)[0] == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["name", "secret", "facts", "payload", "signature", "network", "prefix", "address",
                 "prefixes", "leases", "keys", "key", "mac", "challenge", "family", "known",
                 "identity", "wireguard", "flood"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)  # fmt: skip
bodies = st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode())


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.sampled_from([api.JOIN, api.PUBLISH, api.LEASES, api.NETWORKS, api.RENEW]), bodies)
def test_no_body_whatever_makes_the_coordinator_fail(
    shared: Coordinator, member: Node, path: str, body: bytes
) -> None:
    raw = Raw(shared)
    header = raw.signed(member.identity, "POST", path, body)
    status, _ = raw("POST", path, body, header)
    assert status in (200, 400, 401, 403, 404, 409, 429)


@settings(max_examples=40)
@given(data=st.binary(max_size=300))
def test_no_bytes_whatever_on_the_line_make_the_coordinator_fail(
    shared: Coordinator, data: bytes
) -> None:
    """In TLS and in place of it."""
    host, _, port = shared.url.removeprefix("https://").partition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        plain.sendall(data)
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain) as line,
    ):
        line.sendall(data + b"\r\n\r\n")
    assert Raw(shared)("GET", api.HEALTH)[0] == 200


def test_tls_before_1_2_is_refused(shared: Coordinator) -> None:
    host, _, port = shared.url.removeprefix("https://").partition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host, int(port))) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain)


@pytest.mark.root
def test_the_admin_socket_is_for_root_even_when_its_mode_lets_others_in(
    shared: Coordinator,
) -> None:
    path = shared.run_dir / "coordinator.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    ask = (
        "import os,socket,sys; s=socket.socket(socket.AF_UNIX); f=os.open(sys.argv[1],os.O_PATH);"
        "os.setuid(65534); s.connect(f'/proc/self/fd/{f}');"
        "s.sendall(b'GET /v1/tokens HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n');"
        "print(s.recv(99).split()[1].decode())"
    )
    path.chmod(0o666)
    try:
        told = subprocess.run(
            [sys.executable, "-c", ask, str(path)], capture_output=True, text=True, check=True
        )
    finally:
        path.chmod(0o600)
    assert told.stdout.strip() == "403"
