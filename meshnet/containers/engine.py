"""Shell. A client of a container engine's API socket, Docker's or podman's.

    GET /version ──▶ GET /events ──▶ GET /containers/json ──▶ events, and a list every RELIST
         ▲                 the stream is open before the list is asked for:         │
         │                 what happens in between is told by the stream            │
         └──── a pause ◀── the stream ended, a list did not come ◀──────────────────┘

`watch` tells all that by calling a function, which must not wait: the stream is read as fast as it
comes, so an engine is never held up by whoever follows it, and nothing is kept here. A silent
stream may be a dead one, and an event may be lost: so it is listed again now and then, and an
engine that does not answer that in time is let go and asked anew. Each request has its limit of
time and of length; a hung engine costs a waiting task.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from meshnet.containers.engine_protocol import (
    ANSWER_LIMIT,
    LINE_LIMIT,
    Container,
    Details,
    Event,
    events_target,
    list_target,
    read_details,
    read_event,
    read_kind,
    read_list,
)
from meshnet.errors import MeshnetError, NotFound, Unavailable

ANSWER = 10.0
"""Seconds an engine has for an answer; a busy machine's takes some for a long list."""

RELIST = 30.0
"""Seconds between two lists while the stream is open."""

RETRY_FIRST, RETRY_LAST = 0.2, 10.0
"""Seconds to wait before an engine that has gone is asked again, at first and at last."""

KEPT = 10_000
"""Events kept while a list is on its way; when more come it is listed again."""


@dataclass(frozen=True, slots=True)
class Listed:
    """All containers that fit: what is not among them is gone, or an event that follows says more.

    Events told while a list was on its way are told once more after it.
    """

    containers: tuple[Container, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """The engine does not answer: it has stopped, restarts or hangs. A Listed follows one day."""

    reason: str


News = Event | Listed | Lost


class Engine:
    """The engine behind a socket. Each request is a connection of its own."""

    def __init__(self, path: Path, limit: float = ANSWER) -> None:
        self.path = path
        self._limit = limit

    async def kind(self) -> str:
        """Return `docker` or `podman`."""
        return read_kind(await self._get("/version"))

    async def containers(self, label: str = "", *, everything: bool = False) -> list[Container]:
        """Return the containers that run, or all; only those with a label (KEY or KEY=VALUE)."""
        return read_list(await self._get(list_target(label, everything=everything)))

    async def inspect(self, container: str) -> Details:
        """Return all about one container, by id or name; NotFound when there is none.

        Docker answers only after the handler of its network driver that works on the container.
        """
        return read_details(await self._get(f"/containers/{container}/json"))

    async def watch(
        self, tell: Callable[[News], None], label: str = "", relist: float = RELIST
    ) -> None:
        """Tell lists, events and losses until cancelled; a Listed comes first, and after each Lost.

        A list holds what runs and has the label; events are told of every container.
        """
        attempt = 0

        def told(news: News) -> None:
            nonlocal attempt
            attempt = 0
            tell(news)

        while True:
            try:
                await _Session(self, told, label, relist).run()
            except* MeshnetError as group:
                tell(Lost(_first(group)))
            await asyncio.sleep(pause(attempt, random.random()))
            attempt += 1

    async def _get(self, target: str) -> bytes:
        data = bytearray()
        async with self.request(target, self._limit) as response:
            async for piece in _pieces(self.path, response):
                data += piece
                if len(data) > ANSWER_LIMIT:
                    raise Unavailable(f"{self.path} answers {target} with too much")
        return bytes(data)

    @asynccontextmanager
    async def request(
        self, target: str, limit: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask, and hold the answer while its body is read; `limit` is for the body, in seconds.

        NotFound is what the engine says; whatever else is no success is Unavailable.
        """
        timeout = aiohttp.ClientTimeout(total=limit)
        connector = aiohttp.UnixConnector(str(self.path), force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            try:
                async with asyncio.timeout(self._limit):
                    response = await session.get(f"http://engine{target}")
            except TimeoutError as error:
                raise Unavailable(f"{self.path} does not answer in time") from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise Unavailable(f"{self.path} cannot be asked: {error}") from error
            async with response:
                if response.status == 404:
                    raise NotFound(f"{self.path} knows no {target}")
                if response.status != 200:
                    raise Unavailable(f"{self.path} answers {target} with {response.status}")
                yield response


class _Session:
    """One stream of events with the lists beside it, from the first answer to the first fault."""

    def __init__(
        self, engine: Engine, tell: Callable[[News], None], label: str, relist: float
    ) -> None:
        self._engine = engine
        self._tell = tell
        self._label = label
        self._relist = relist
        self._meanwhile: deque[Event] = deque(maxlen=KEPT)
        self._listing = False

    async def run(self) -> None:
        """Return never; raise a group with what went wrong."""
        async with asyncio.TaskGroup() as group:
            target = events_target(await self._engine.kind())
            open_stream = asyncio.Event()
            group.create_task(self._events(target, open_stream))
            await open_stream.wait()
            group.create_task(self._lists())

    async def _events(self, target: str, opened: asyncio.Event) -> None:
        async with self._engine.request(target, None) as response:
            opened.set()
            async for line in _lines(self._engine.path, response):
                event = read_event(line)
                if event is None:
                    continue
                if self._listing:
                    self._meanwhile.append(event)
                self._tell(event)

    async def _lists(self) -> None:
        while True:
            self._listing = True
            listed = await self._engine.containers(self._label)
            self._listing = False
            self._tell(Listed(tuple(listed)))
            overrun = len(self._meanwhile) == KEPT
            while self._meanwhile:
                self._tell(self._meanwhile.popleft())
            await asyncio.sleep(1.0 if overrun else self._relist)


def pause(attempt: int, chance: float) -> float:
    """Return the seconds to wait before another attempt; `chance` is in 0..1."""
    longest = min(RETRY_LAST, RETRY_FIRST * 2.0 ** min(attempt, 16))
    return longest * (0.5 + chance / 2)


def _first(group: ExceptionGroup[MeshnetError]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


async def _lines(path: Path, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the lines of a body; Unavailable at its end and for a line too long."""
    rest = b""
    async for piece in _pieces(path, response):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > LINE_LIMIT:
            raise Unavailable(f"{path} sends an event of more than {LINE_LIMIT} bytes")
    raise Unavailable(f"{path} ended its events")


async def _pieces(path: Path, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield a body as it comes; Unavailable when it breaks off."""
    try:
        async for piece in response.content.iter_any():
            yield piece
    except TimeoutError as error:
        raise Unavailable(f"{path} does not end its answer in time") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Unavailable(f"{path} broke off") from error
