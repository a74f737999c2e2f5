"""Whatever of an engine's events is lost, late or told twice, what is attached follows what runs.

An engine is played on a real socket: containers come, go, fall ill and get other names at random,
of the events that should tell of it some are dropped, some are doubled, and streams break off.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshnet.agent.attachments import with_health
from meshnet.containers.discovery import Discovery
from meshnet.containers.engine import Engine
from meshnet.errors import Conflict, NotFound, Unavailable
from meshnet.model.attached import LocalAttachment, LocalInstance
from meshnet.wire.local import Attached, AttachRequest, ServiceRequest

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
NETWORKS = ("default", "appnet")
ACTS = ("run", "run", "stop", "rename", "health", "pause", "restart", "break", "hang")


class PlayedEngine:
    """An engine and its containers, by id."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.containers: dict[str, dict[str, Any]] = {}
        self.streams: set[asyncio.StreamWriter] = set()
        self.answers = asyncio.Event()
        self.answers.set()
        self._next = 100

    def act(self) -> None:
        """Do something that a user or a fault may do."""
        act = self.chance.choice(ACTS)
        if act == "run":
            self.run()
        elif act == "break":
            for stream in self.streams:
                stream.close()
        elif act == "hang":
            (self.answers.clear if self.answers.is_set() else self.answers.set)()
        elif self.containers:
            self.change(act, self.chance.choice(sorted(self.containers)))

    def run(self) -> None:
        self._next += 1
        labels = {"mesh.service": "web", "mesh.network": self.chance.choice(NETWORKS)}
        asking = self.chance.random() < 0.8
        self.containers[f"{self._next:064d}"] = {
            "name": f"c{self._next}",
            "pid": self._next,
            "health": "starting",
            "labels": labels if asking else {},
            "state": "running",
        }
        self.tell("start", f"{self._next:064d}")

    def change(self, act: str, key: str) -> None:
        container = self.containers[key]
        if act == "rename":
            self._next += 1
            container["name"] = f"r{self._next}"
            self.tell("rename", key)
        elif act == "health":
            container["health"] = self.chance.choice(("healthy", "unhealthy"))
            self.tell(f"health_status: {container['health']}", key)
        elif act == "pause":
            paused = container["state"] == "paused"
            container["state"] = "running" if paused else "paused"
            self.tell("unpause" if paused else "pause", key)
        elif act == "restart":
            self._next += 1
            self.tell("die", key)
            container["pid"] = self._next
            self.tell("start", key)
        else:
            self.tell("die", key)
            del self.containers[key]

    def tell(self, action: str, key: str) -> None:
        attributes = {"name": "x", **self.containers[key]["labels"]}
        said = {"Type": "container", "Action": action, "Actor": {"ID": key}}
        said["Actor"]["Attributes"] = attributes  # type: ignore[index]
        for stream in self.streams:
            for _ in range(self.chance.choice((0, 1, 1, 2))):
                stream.write(json.dumps(said).encode() + b"\n")

    def should(self) -> dict[str, tuple[str, str, int, bool]]:
        """Return what is to be attached: name, network, namespace and health, by container."""
        return {
            key: (c["name"], c["labels"]["mesh.network"], c["pid"], self.is_well(c))
            for key, c in self.containers.items()
            if c["labels"]
        }

    @staticmethod
    def is_well(container: dict[str, Any]) -> bool:
        return bool(container["state"] == "running" and container["health"] == "healthy")

    @staticmethod
    def inode_of(path: str) -> int:
        """Take a container's process for its namespace."""
        return int(path.split("/")[2])

    # On the socket

    @asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self._serve, path)
        try:
            yield
        finally:
            server.close()
            for stream in self.streams:
                stream.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            target = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            await self.answers.wait()
            writer.write(self._answer(target))
            if target.startswith("/events"):
                self.streams.add(writer)
                await reader.read()
        self.streams.discard(writer)
        writer.close()

    def _answer(self, target: str) -> bytes:
        if target.startswith("/containers/json"):
            listed = (self._listed(key, each) for key, each in self.containers.items())
            return HEAD + json.dumps(list(listed)).encode()
        if target.startswith("/containers/"):
            key = target.split("/")[2]
            if key not in self.containers:
                return b"HTTP/1.1 404 No\r\nConnection: close\r\n\r\n"
            return HEAD + json.dumps(self._inspected(key, self.containers[key])).encode()
        return HEAD + (b"" if target.startswith("/events") else b"{}")

    def _listed(self, key: str, each: dict[str, Any]) -> dict[str, Any]:
        status = f"Up 1 second ({each['health']})"
        names = {"Names": [f"/{each['name']}"], "Labels": each["labels"]}
        return {"Id": key, "State": each["state"], "Status": status, **names}

    def _inspected(self, key: str, each: dict[str, Any]) -> dict[str, Any]:
        health = {"Status": each["health"]}
        state = {"Status": each["state"], "Pid": each["pid"], "Health": health}
        config = {"Labels": each["labels"]}
        return {"Id": key, "Name": f"/{each['name']}", "State": state, "Config": config}


class PlayedDesk:
    """The agent's desk, in memory; attaching takes its time and fails now and then.

    As the agent does, it drops what was in a namespace that has ended.
    """

    def __init__(self, engine: PlayedEngine, chance: random.Random) -> None:
        self.engine = engine
        self.items: dict[tuple[str, str], LocalAttachment] = {}
        self.chance = chance
        self.calm = False

    async def attach(self, request: AttachRequest) -> Attached:
        await asyncio.sleep(self.chance.random() * 0.01)
        if not self.calm and self.chance.random() < 0.2:
            raise Unavailable("no lease")
        if any(item.owner == request.owner for item in self.items.values()):
            raise Conflict(f"{request.owner} is attached already")
        self._put(
            LocalAttachment(
                network=request.network,
                name=request.basis,
                addresses=(str(ip_address(request.pid)),),
                mac="",
                interface="mesh0",
                inode=request.pid,
                owner=request.owner,
                instances=(LocalInstance(service=request.service, healthy=request.healthy),),
            )
        )
        name, network = request.basis, request.network
        return Attached(
            network=network, name=name, interface="mesh0", addresses=(), mac="", mtu=1370
        )

    def _put(self, item: LocalAttachment) -> LocalAttachment:
        self.items[item.network, item.name] = item
        return item

    async def detach(self, network: str, name: str) -> None:
        await asyncio.sleep(self.chance.random() * 0.01)
        if self.items.pop((network, name), None) is None:
            raise NotFound(name)

    def attached(self) -> list[LocalAttachment]:
        living = {container["pid"] for container in self.engine.containers.values()}
        self.items = {key: item for key, item in self.items.items() if item.inode in living}
        return list(self.items.values())

    def knows(self, group: str) -> bool:
        return any(item.owner.startswith(f"{group}/") for item in self.attached())

    def rename(self, item: LocalAttachment, basis: str) -> LocalAttachment:
        del self.items[item.network, item.name]
        return self._put(msgspec.structs.replace(item, name=basis))

    def set_health(self, item: LocalAttachment, *, healthy: bool) -> LocalAttachment:
        return self._put(with_health(item, healthy=healthy))

    def add_service(self, request: ServiceRequest) -> LocalAttachment:
        raise AssertionError("nothing here was attached by others")

    def shows(self) -> dict[str, tuple[str, str, int, bool]]:
        return {
            item.owner.rpartition("/")[2]: (
                item.name,
                item.network,
                item.inode,
                item.instances[0].healthy,
            )
            for item in self.items.values()
        }


@pytest.mark.parametrize("seed", range(6))
async def test_what_is_attached_follows_what_runs(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshnet.containers.discovery.RETRY", 0.05)
    chance = random.Random(seed)
    engine = PlayedEngine(chance)
    desk = PlayedDesk(engine, chance)
    path = tmp_path / "engine.sock"
    inode_of = PlayedEngine.inode_of
    discovery = Discovery(Engine(path, limit=0.3), desk, inode_of, relist=0.2)
    async with engine.serving(path):
        task = asyncio.ensure_future(discovery.run())
        for _ in range(150):
            engine.act()
            await asyncio.sleep(chance.random() * 0.01)
        engine.answers.set()
        desk.calm = True
        for _ in range(500):
            if task.done() or desk.shows() == engine.should():
                break
            await asyncio.sleep(0.02)
        assert not task.done(), task
        assert desk.shows() == engine.should()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert engine.should()
