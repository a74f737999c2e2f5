"""Whatever a container engine says, or does not say: the client keeps going."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.containers import engine as client
from meshnet.containers.engine import Engine, Listed, Lost, News, pause
from meshnet.containers.engine_protocol import (
    LINE_LIMIT,
    Action,
    Container,
    Event,
    Health,
    Port,
    read_details,
    read_event,
    read_kind,
    read_list,
)
from meshnet.errors import BadInput, NotFound, Unavailable

ID = "2b68" * 16
NETWORK = "77aa" * 16

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
VALID: dict[str, Any] = {
    "event": {
        "Type": "container",
        "Action": "health_status: healthy",
        "Actor": {"ID": ID, "Attributes": {"name": "web1", "mesh.service": "web"}},
        "timeNano": 1795230151173299436,
    },
    "list": {
        "Id": ID,
        "Names": ["/other/link", "/web1"],
        "State": "running",
        "Status": "Up 2 seconds (health: starting)",
        "Labels": {"mesh.service": "web"},
        "NetworkSettings": {"Networks": {"n1": {"NetworkID": NETWORK, "IPAddress": "10.1.0.2"}}},
    },
    "details": {
        "Id": ID,
        "Name": "/web1",
        "State": {"Status": "running", "Pid": 77, "Health": {"Status": "unhealthy"}},
        "Config": {"Labels": {"mesh.service": "web"}},
        "HostConfig": {"NetworkMode": "default"},
        "NetworkSettings": {"Networks": {}},
    },
}


@st.composite
def damaged(draw: st.DrawFn, what: str) -> bytes:
    """Draw a valid message in which one value, at any depth, is another one or missing."""
    message = json.loads(json.dumps(VALID[what]))
    place = message
    while True:
        key = draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        if draw(st.booleans()):
            place[key] = draw(JSON)
        else:
            del place[key]
        return json.dumps([message] if what == "list" else message).encode()


@settings(max_examples=500)
@given(st.binary(max_size=60) | damaged("event"))
def test_an_event_is_one_that_we_know_or_none(line: bytes) -> None:
    event = read_event(line)
    assert event is None or (event.action in Action and event.container == ID)


@settings(max_examples=500)
@given(st.binary(max_size=60) | damaged("list"))
def test_a_list_holds_containers_or_is_refused(data: bytes) -> None:
    with suppress(BadInput):
        for each in read_list(data):
            assert each.id == ID
            assert all(isinstance(part, str) for part in (*each.labels, *each.labels.values()))


@settings(max_examples=500)
@given(st.binary(max_size=60) | damaged("details"))
def test_a_description_is_complete_or_is_refused(data: bytes) -> None:
    with suppress(BadInput):
        details = read_details(data)
        assert details.id == ID
        assert details.pid == 0 or details.lives


def test_one_container_of_another_form_does_not_hide_the_rest() -> None:
    said = [None, {"Id": 3}, {"Id": "../../x"}, VALID["list"]]
    port = Port("n1", NETWORK, address="10.1.0.2")
    labels = {"mesh.service": "web"}
    one = Container(ID, "web1", "running", Health.STARTING, labels, (port,))
    assert read_list(json.dumps(said).encode()) == [one]


def line_of(kind: str, action: str, actor: str, **attributes: str) -> bytes:
    said = {"Type": kind, "Action": action, "Actor": {"ID": actor, "Attributes": attributes}}
    return json.dumps(said).encode()


def test_both_engines_words_mean_the_same() -> None:
    for words, action in {
        ("die", "died"): Action.DIE,
        ("destroy", "remove"): Action.REMOVE,
    }.items():
        for word in words:
            told = read_event(line_of("container", word, ID, name="web1"))
            assert told == Event(action, ID, "web1", {"name": "web1"})
    assert read_event(line_of("container", "exec_start: sh", ID)) is None
    assert read_event(line_of("image", "remove", ID)) is None


def test_the_event_of_a_network_names_the_container() -> None:
    told = read_event(line_of("network", "connect", NETWORK, container=ID, name="n1"))
    assert told == Event(Action.CONNECT, ID, network=NETWORK, network_name="n1")


def test_podman_is_told_from_docker() -> None:
    assert read_kind(b'{"Components": [{"Name": "Podman Engine"}]}') == "podman"
    assert read_kind(b'{"Components": [{"Name": "Engine"}, 3, {}]}') == "docker"
    assert read_kind(b'{"Components": 3}') == "docker"


# A liar on the other side of the socket

Talk = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


async def well(target: str, writer: asyncio.StreamWriter) -> None:
    """Answer as an idle engine does."""
    if target.startswith("/events"):
        writer.write(HEAD)
        await writer.drain()
        await asyncio.sleep(60)
    writer.write(HEAD + (b"[]" if target.startswith("/containers/json") else b"{}"))


@asynccontextmanager
async def talking(path: Path, talk: Talk) -> AsyncIterator[list[str]]:
    """Be an engine on `path`; yields what it is asked."""
    asked: list[str] = []
    open_ones: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            asked.append((await reader.readuntil(b"\r\n\r\n")).split()[1].decode())
            await talk(asked[-1], writer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield asked
    finally:
        server.close()
        for writer in open_ones:
            writer.transport.abort()


@asynccontextmanager
async def watching(engine: Engine, relist: float = 30.0) -> AsyncIterator[asyncio.Queue[News]]:
    """Watch an engine for a while."""
    news: asyncio.Queue[News] = asyncio.Queue()
    task = asyncio.ensure_future(engine.watch(news.put_nowait, "mesh.service", relist))
    try:
        yield news
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def heard(news: asyncio.Queue[News], kind: type[News]) -> News:
    """Return the next news of a kind."""
    async with asyncio.timeout(10):
        while not isinstance(one := await news.get(), kind):
            pass
    return one


async def test_no_engine_is_said_and_found_when_it_comes(tmp_path: Path) -> None:
    async with watching(Engine(tmp_path / "sock")) as news:
        assert "cannot be asked" in str(await heard(news, Lost))
        async with talking(tmp_path / "sock", well):
            assert await heard(news, Listed) == Listed(())


async def test_an_engine_that_hangs_is_let_go_and_asked_anew(tmp_path: Path) -> None:
    hangs = True

    async def talk(target: str, writer: asyncio.StreamWriter) -> None:
        if hangs and target.startswith("/containers"):
            await asyncio.sleep(60)
        await well(target, writer)

    async with talking(tmp_path / "sock", talk), watching(Engine(tmp_path / "sock", 0.1)) as news:
        assert "time" in str(await heard(news, Lost))
        hangs = False
        assert await heard(news, Listed) == Listed(())


async def test_what_happens_while_a_list_is_on_its_way_is_told_after_it(tmp_path: Path) -> None:
    streams: list[asyncio.StreamWriter] = []

    async def talk(target: str, writer: asyncio.StreamWriter) -> None:
        if target.startswith("/events"):
            streams.append(writer)
        if target.startswith("/containers"):
            streams[0].write(line_of("container", "start", ID, name="late") + b"\n")
            await asyncio.sleep(0.1)
        await well(target, writer)

    async with talking(tmp_path / "sock", talk), watching(Engine(tmp_path / "sock")) as news:
        told = [await news.get() for _ in range(3)]
        late = Event(Action.START, ID, "late", {"name": "late"})
        assert told == [late, Listed(()), late]


@pytest.mark.parametrize(
    "noise", [b"x" * (LINE_LIMIT + 70_000), b"\x00\xff\n{}\n" * 9], ids=["long", "short"]
)
async def test_noise_in_the_stream_ends_it_or_is_passed_over(tmp_path: Path, noise: bytes) -> None:
    async def talk(target: str, writer: asyncio.StreamWriter) -> None:
        if target.startswith("/events"):
            writer.write(HEAD + noise)
            await writer.drain()
            await asyncio.sleep(0.1)
        else:
            await well(target, writer)

    async with talking(tmp_path / "sock", talk), watching(Engine(tmp_path / "sock")) as news:
        assert await heard(news, Lost)
        assert await heard(news, Lost)


async def test_it_is_listed_again_now_and_then(tmp_path: Path) -> None:
    async with talking(tmp_path / "sock", well), watching(Engine(tmp_path / "sock"), 0.05) as news:
        for _ in range(3):
            assert await heard(news, Listed)


async def test_errors_of_an_engine_are_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk(target: str, writer: asyncio.StreamWriter) -> None:
        status = b"404 No" if "gone" in target else b"500 No" if "bad" in target else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\n\r\n[" + b" " * 5000)

    monkeypatch.setattr(client, "ANSWER_LIMIT", 4096)
    async with talking(tmp_path / "sock", talk):
        engine = Engine(tmp_path / "sock")
        with pytest.raises(NotFound):
            await engine.inspect("gone")
        with pytest.raises(Unavailable, match="500"):
            await engine.inspect("bad")
        with pytest.raises(Unavailable, match="too much"):
            await engine.containers()


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_pause_grows_to_its_limit(attempt: int, chance: float) -> None:
    assert 0.1 <= pause(attempt, chance) <= client.RETRY_LAST
