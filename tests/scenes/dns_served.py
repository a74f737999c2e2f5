"""Shell. A DNS process that serves a small mesh on loopback, and how scenes ask it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from meshnet.dns.feed import DnsFeed, stop_server
from meshnet.dns.table import HOST, Table
from meshnet.dns.zone import Zones
from meshnet.model.statements import StaticRecord
from meshnet.model.view import Node
from tests.pure.dns_world import attachment, instance, node, node_id, view

HERE = "127.0.0.1"
WEB4 = [f"10.214.0.{number}" for number in (1, 2, 3)]
STATIC = (
    StaticRecord("*.dev", "CNAME", ("web",)),
    StaticRecord("printer", "A", ("192.0.2.9",)),
    StaticRecord("cdn", "CNAME", ("up.example.",)),
    StaticRecord("*.far", "CNAME", ("many.example.",)),
    StaticRecord("lost", "CNAME", ("none.example.",)),
    StaticRecord("note", "TXT", ('"two words"',)),
)


def web(number: int, address: str | None = None) -> Node:
    """A node with an instance of `web`, and one of `db` in another network."""
    last = address or f"10.214.0.{number}"
    return node(
        number,
        attachment("default", f"c{number}", last, f"fd00:0:0:1::{number:x}"),
        attachment("appnet", f"a{number}", f"10.1.0.{number + 1}"),
        instance("default", "web", f"c{number}", tier="front"),
        instance("appnet", "db", f"a{number}"),
    )


def mesh(*nodes: Node) -> Mapping[str, Table]:
    nodes = nodes or (web(1), web(2), web(3))
    world = view(*nodes, static=STATIC)
    return Zones(node_id(1)).update(world, [one.id for one in nodes], ("appnet",))


def free_port() -> int:
    """A port that is free for UDP and TCP, on both loopbacks."""
    for _ in range(50):
        port = random.randrange(20000, 60000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for family, address in ((socket.AF_INET, HERE), (socket.AF_INET6, "::1")):
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    sock = stack.enter_context(socket.socket(family, kind))
                    sock.bind((address, port))
            return port
    raise AssertionError("no free port on loopback")


class Served:
    """A DNS process with the test's mesh, and how to ask it."""

    def __init__(self, feed: DnsFeed, path: Path) -> None:
        self.feed = feed
        self.path = path
        self.port = free_port()

    async def dig(self, *words: str, server: str = HERE) -> str:
        """Run dig; return what it printed."""
        process = await asyncio.create_subprocess_exec(
            *("dig", f"@{server}", "-p", str(self.port), "+time=2", "+tries=1", *words),
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate()
        return out.decode()

    async def short(self, *words: str, server: str = HERE) -> list[str]:
        """Run dig +short; return its lines, sorted."""
        return sorted((await self.dig("+short", *words, server=server)).splitlines())

    async def status(self, *words: str) -> str:
        """Run dig; return the response code it read."""
        found = re.search(r"status: (\w+)", await self.dig(*words))
        return found[1] if found else "none"

    async def count(self, name: str, least: float, limit: float = 5) -> None:
        """Wait until a figure of the process is so high."""
        deadline = time.monotonic() + limit
        while (found := (await self.feed.stats()).get(name, 0)) < least:
            assert time.monotonic() < deadline, f"{name} is {found}"
            await asyncio.sleep(0.05)

    async def until(self, expected: list[str], *words: str, limit: float = 5) -> None:
        """Wait until dig gives these lines."""
        deadline = time.monotonic() + limit
        while (found := await self.short(*words)) != expected:
            assert time.monotonic() < deadline, f"not within {limit} s: {expected}, but {found}"
            await asyncio.sleep(0.05)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    if shutil.which("dig") is None:
        pytest.skip("needs dig (bind9-dnsutils)")
    path = tmp_path / "dns.sock"
    served = Served(DnsFeed(path), path)
    try:
        await served.feed.start()
        await served.feed.publish(mesh())
        await served.feed.listen(HOST, HERE, served.port)
        await served.feed.listen(HOST, "::1", served.port)
        assert served.feed.error == ""
        yield served
    finally:
        await served.feed.stop()
        stop_server(path)
        assert not path.exists()
