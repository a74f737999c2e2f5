"""Shell. The agent's side of the DNS process: start it, keep it fed, start it again.

    start()    ─▶ does a process serve the control socket already?
                    our version ─▶ adopt it: it answered all the while
                    another one ─▶ take its sockets, end it, start ours, give them to ours
                    nobody      ─▶ start ours
    publish()  ─▶ what differs from what the process has; to a new one everything
    listen()   ─▶ open the sockets, in the network's namespace if it has one, and pass them on

What the caller asks for is written down; one step, `_catch_up`, makes the process follow. It is
done for each call, when the process dies, and now and then. Nothing is raised to the caller: a
process that is not there is logged and made good later, since no data depends on it.

The process is detached. It goes on answering while the agent is restarted, upgraded or killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from subprocess import Popen

from meshnet import __version__
from meshnet.dns import control
from meshnet.dns.line import Line, Taken, end, read_listeners, start, stop_server
from meshnet.dns.sockets import namespace_id, open_sockets
from meshnet.dns.table import Table
from meshnet.dns.update import update_messages
from meshnet.errors import BadInput, MeshnetError, Unavailable

__all__ = ["DnsFeed", "stop_server"]

log = logging.getLogger(__name__)

Place = tuple[str, str, int]
"""Context, address and port of a pair of listeners, UDP and TCP."""

DNS_PORT = 53
LOOK_SECONDS = 10.0
RETRY_SECONDS, RETRY_MAX = 0.1, 5.0
STEADY_SECONDS = 10.0
"""A process that lived so long did not die of its start."""


class DnsFeed:
    """One DNS process and what it is to know. `error` says what is wrong now, or is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._child: Popen[bytes] | None = None
        self._line: Line | None = None
        self._failures = 0
        self._started_at = self._not_before = 0.0
        self._deaths = 0
        self._tables: dict[str, Table] | None = None
        self._sent: dict[str, Table] | None = None
        self._upstreams: list[tuple[str, int]] = []
        self._sent_upstreams: list[tuple[str, int]] | None = None
        self._wanted: dict[Place, str | None] = {}
        self._open: dict[Place, str] = {}
        self._adopted: set[Place] = set()
        self.error = ""

    async def start(self) -> None:
        """Adopt the process that runs, or start one; keep it running from now on."""
        if self._watcher is None:
            await self._catch_up()
            self._watcher = asyncio.create_task(self._watch(), name="dns feed")

    async def publish(self, tables: Mapping[str, Table]) -> None:
        """Let the process answer from these tables, by context, and from no others."""
        self._tables = dict(tables)
        await self._catch_up()

    async def listen(
        self, context: str, address: str, port: int = DNS_PORT, netns: str | None = None
    ) -> None:
        """Serve a context at an address, in a namespace given by path or name.

        An address that is in use, or a namespace that is not there yet, is tried again later.
        """
        self._wanted[context, str(ip_address(address)), port] = netns
        await self._catch_up()

    async def unlisten(self, context: str, address: str, port: int = DNS_PORT) -> None:
        """Stop serving there."""
        place = (context, str(ip_address(address)), port)
        self._wanted.pop(place, None)
        self._adopted.discard(place)
        await self._catch_up()

    async def set_upstreams(self, upstreams: Iterable[str]) -> None:
        """Forward other names to these, as `ADDRESS` or `ADDRESS#PORT`; to none refuses them."""
        self._upstreams = [read_upstream(text) for text in upstreams]
        await self._catch_up()

    async def stats(self) -> dict[str, int]:
        """Return the counters of the process, by name and labels. Raise Unavailable."""
        if self._line is None:
            raise Unavailable("the DNS process is not there", "See the agent's log.")
        said, _ = await self._line.request(control.STATS)
        lines = said[0].decode().splitlines()
        return {name: int(number) for name, _, number in (line.rpartition(" ") for line in lines)}

    @property
    def listening(self) -> frozenset[Place]:
        """Where the process listens."""
        return frozenset(self._open)

    @property
    def pid(self) -> int | None:
        """The process that serves, or None."""
        return None if self._line is None or self._line.lost.is_set() else self._line.pid

    async def stop(self) -> None:
        """End the process."""
        await self._unwatch()
        async with self._turn:
            if self._line is not None:
                await end(self._line)
        await self.close()

    async def close(self) -> None:
        """Leave the process to itself; it goes on answering."""
        await self._unwatch()
        async with self._turn:
            if self._line is not None:
                self._line.close()
                self._line = None
            if self._child is not None:
                self._child.poll()

    async def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None

    async def _watch(self) -> None:
        """Look after the process: at once when it dies, sooner or later otherwise."""
        while True:
            line = self._line
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience()):
                    if line is None or line.lost.is_set():
                        await asyncio.Event().wait()
                    else:
                        await line.lost.wait()
                        log.warning("the DNS process is gone")
            await self._catch_up()

    def _patience(self) -> float:
        if not self.error:
            return LOOK_SECONDS
        longest = min(RETRY_SECONDS * 2**self._failures, RETRY_MAX)
        return random.uniform(longest / 2, longest)

    async def _catch_up(self) -> None:
        """Make the process follow what was asked for; log what cannot be done now."""
        async with self._turn:
            try:
                await self._follow()
            except MeshnetError as error:
                self._failures = min(self._failures + 1, 10)
                self._complain(error.message)
            else:
                self._failures = 0
                self._complain("")

    def _complain(self, message: str) -> None:
        if message and message != self.error:
            log.error("DNS: %s", message)
        self.error = message

    async def _follow(self) -> None:
        line = await self._connected()
        if self._sent_upstreams != self._upstreams:
            fields = [field for upstream in self._upstreams for field in upstream]
            await line.request(control.UPSTREAMS, *fields)
            self._sent_upstreams = list(self._upstreams)
        if self._tables is not None:
            for message in update_messages(self._sent, self._tables, int(time.time())):
                await line.send(message)
            self._sent = self._tables
        await self._place_listeners(line)

    async def _connected(self) -> Line:
        if self._line is not None and not self._line.lost.is_set():
            return self._line
        self._forget_process()
        line, taken = Line.open(self._path), list[Taken]()
        if line is not None:
            line, taken = await self._adopt(line)
        if line is None:
            if time.monotonic() < self._not_before:
                raise Unavailable(f"the DNS process died {self._deaths} times soon after its start")
            self._started_at = time.monotonic()
            line, self._child = await start(self._path)
            log.info("started DNS process %d", line.pid)
            await self._give_back(line, taken)
        self._line = line
        return line

    def _forget_process(self) -> None:
        """Begin anew. One that died soon after its start is not started again at once."""
        if self._child is not None and self._line is not None:
            self._child.poll()
            now = time.monotonic()
            soon = now - self._started_at < STEADY_SECONDS
            self._deaths = self._deaths + 1 if soon else 0
            wait = min(RETRY_SECONDS * 2**self._deaths, RETRY_MAX) if self._deaths > 1 else 0.0
            self._not_before = now + wait
        self._line = None
        self._sent, self._sent_upstreams = None, None
        self._open = {}
        self._adopted = set()

    async def _adopt(self, line: Line) -> tuple[Line | None, list[Taken]]:
        """Return the line when the process is of our version, else the sockets it had."""
        try:
            said, _ = await line.request(control.HELLO, __version__)
        except MeshnetError as error:
            log.warning("ending the DNS process %d: %s", line.pid, error.message)
            await end(line)
            return None, []
        if said[0].decode() == __version__:
            self._note_listeners(read_listeners(said[2:]))
            return line, []
        log.info("replacing DNS process of version %s", said[0].decode())
        taken = await line.take_listeners()
        await end(line)
        return None, taken

    def _note_listeners(self, listeners: Iterable[Taken]) -> None:
        """Note the places that have both sockets."""
        seen: set[Place] = set()
        for one in listeners:
            place = (one.context, one.address, one.port)
            if place in seen:
                self._open[place] = one.netns
                self._adopted.add(place)
            seen.add(place)

    async def _give_back(self, line: Line, taken: list[Taken]) -> None:
        for one in taken:
            fields = (one.context, one.transport, one.address, one.port, one.netns)
            await line.request(control.LISTEN, *fields, descriptors=[one.descriptor])
            os.close(one.descriptor)
        self._note_listeners(taken)

    async def _place_listeners(self, line: Line) -> None:
        """Close what is not wanted and open what is missing.

        What an adopted process has is kept while its context lives: after a start, the caller asks
        for one listener after the other.
        """
        for place in sorted(self._open.keys() - self._wanted.keys()):
            context = place[0]
            if place not in self._adopted or (self._tables and context not in self._tables):
                await line.request(control.UNLISTEN, *place)
                del self._open[place]
        problems = [await self._place(line, place) for place in sorted(self._wanted)]
        if any(problems):
            raise Unavailable("; ".join(filter(None, problems)))

    async def _place(self, line: Line, place: Place) -> str:
        """Let the process listen at one place, and return why it cannot, or ''."""
        (context, address, port), netns = place, self._wanted[place]
        self._adopted.discard(place)
        try:
            namespace = namespace_id(netns)
            if self._open.get(place) == namespace:
                return ""
            sockets = await open_sockets(address, port, netns)
        except Unavailable as error:
            return error.message
        for transport, sock in zip(("udp", "tcp"), sockets, strict=True):
            with sock:
                fields = (context, transport, address, port, namespace)
                await line.request(control.LISTEN, *fields, descriptors=[sock.fileno()])
        self._open[place] = namespace
        return ""


def read_upstream(text: str) -> tuple[str, int]:
    """Read `ADDRESS` or `ADDRESS#PORT`; raise BadInput."""
    address, _, port = text.partition("#")
    try:
        return str(ip_address(address)), int(port or DNS_PORT)
    except ValueError as error:
        raise BadInput(f"DNS upstream {text[:60]!r} is not ADDRESS or ADDRESS#PORT") from error
