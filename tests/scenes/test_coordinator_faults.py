"""Shell. Scenes in which a coordinator or its clients break: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshnet.coordinator.core import Terms
from meshnet.coordinator.setup import initialise, renew_issuer
from meshnet.errors import Conflict, MeshnetError, Refused, Unavailable
from meshnet.model.addresses import attachment_mac
from meshnet.model.facts import Fact
from meshnet.model.records import Attachment, Instance
from meshnet.model.statements import Lease
from meshnet.wire import api, auth
from meshnet.wire.fact import seal
from tests.scenes.coordinators import (
    Coordinator,
    Node,
    following,
    joined,
    running,
    until,
)


@pytest.fixture
def coordinator(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Coordinator]:
    with running(tmp_path, getattr(request, "param", None)) as coordinator:
        yield coordinator


async def publish_for_ever(node: Node, acknowledged: list[Fact]) -> None:
    """Publish one record after another; note those the coordinator said it has."""
    number = 0
    while True:
        number += 1
        fact = node.say(node.record(number))
        with contextlib.suppress(MeshnetError):
            await node.client.publish([seal(fact)])
            acknowledged.append(fact)


@contextlib.asynccontextmanager
async def storm(nodes: list[Node], acknowledged: list[Fact]):  # type: ignore[no-untyped-def]
    tasks = [asyncio.create_task(publish_for_ever(node, acknowledged)) for node in nodes]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_kill_9_in_a_storm_of_publishes_loses_nothing_acknowledged(
    coordinator: Coordinator,
) -> None:
    names = [f"n{number}" for number in range(8)]
    async with joined(coordinator, *names) as nodes:
        for _ in range(3):
            acknowledged: list[Fact] = []
            async with storm(nodes, acknowledged):
                await until(lambda storm=acknowledged: len(storm) >= 100, "a storm", 30)
                coordinator.kill()
            coordinator.start()
            last = {fact.slot: fact for fact in acknowledged}
            async with following(nodes[0]) as follower:
                for slot, fact in last.items():
                    known = follower.mirror.get(slot)
                    assert known is not None
                    assert known.rank >= fact.rank, f"lost: {fact}"


async def test_kill_9_in_a_storm_of_joins_keeps_uses_and_members_in_step(
    coordinator: Coordinator,
) -> None:
    token = coordinator.token(uses=40)
    nodes = [Node(f"n{number}", token) for number in range(40)]
    welcomed: list[Node] = []

    async def join(node: Node) -> None:
        await node.join()
        welcomed.append(node)

    tasks = [asyncio.create_task(join(node)) for node in nodes]
    await until(lambda: welcomed, "the first member")
    coordinator.kill()
    coordinator.start()
    await asyncio.gather(*tasks)
    for node in nodes:
        await node.client.close()
    assert len(welcomed) == 40
    assert [token.used for token in coordinator.admin.tokens()] == [40]
    assert len({node.address4 for node in coordinator.admin.nodes()}) == 40


async def test_streams_resume_over_a_restart_and_nothing_is_missed(
    coordinator: Coordinator,
) -> None:
    async with (
        joined(coordinator, "n1", "n2", "n3") as [one, two, three],
        following(two) as follower,
        following(three) as other,
    ):
        await one.publish(one.record(1))
        assert coordinator.stop() == 0
        coordinator.start()
        await one.publish(one.record(2))
        for watcher in (follower, other):
            await until(
                lambda w=watcher: (
                    [f.body for f in w.mirror.of(one.identity.public)]  # type: ignore[misc]
                    == [one.record(2)]
                ),
                "the second record",
            )
            assert watcher.snapshots == 1
            assert watcher.suspects == []


async def test_a_store_restored_from_an_older_copy_makes_snapshots_not_confusion(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    """The digest shows that a revision has come to mean something else."""
    async with joined(coordinator, "n1", "n2") as [one, two]:
        await one.publish(one.record(1))
        coordinator.stop()
        copy = (coordinator.state_dir / "store.sqlite").read_bytes()
        coordinator.start()
        async with following(two) as follower:
            await one.publish(one.record(2))
            await until(lambda: follower.revision == coordinator.admin.status().revision, "news")
        coordinator.stop()
        for path in coordinator.state_dir.glob("store.sqlite*"):
            path.unlink()
        (coordinator.state_dir / "store.sqlite").write_bytes(copy)
        coordinator.start()
        await one.publish(one.record(3))
        with pytest.raises(AssertionError, match="digest"):
            async for line in two.client.watch(follower.revision, follower.store):
                follower.take(line)
        follower.revision = None
        stream = two.client.watch()
        async for line in stream:
            follower.take(line)
            if line.digest:
                break
        await stream.aclose()
        assert [f.body for f in follower.mirror.of(one.identity.public)] == [one.record(3)]


LINE_PACE = 0.06
"""Seconds after which the next change goes into a line of its own."""

WORDS = 40
"""Facts of 12 KB in a line: so many that buffers are full before a silent connection is ended."""


def wordy(number: int) -> Instance:
    return Instance("default", f"s{number}", "c1", metadata={"x": "x" * 12_000})


@pytest.mark.timeout(300)
async def test_a_reader_that_does_not_read_is_dropped_and_the_others_go_on(
    coordinator: Coordinator,
) -> None:
    async with (
        joined(coordinator, "n1", "n2", "n3") as [one, lazy, two],
        following(two) as follower,
    ):
        with lazy_stream(coordinator, lazy):
            await until(lambda: coordinator.admin.status().watching == 2, "two streams")
            [lease] = one.granted(await one.client.lease("default"))
            assert isinstance(lease.body, Lease)
            address = lease.body.prefix.network_address + 9
            port = Attachment("default", "c1", (address,), attachment_mac(1000, address))
            fact = one.say(port)
            await one.client.publish([seal(fact)])
            for _ in range(300):
                facts = [one.say(wordy(number)) for number in range(WORDS)]
                assert (await one.client.publish([seal(f) for f in facts])).refused == ()
                fact = facts[-1]
                await asyncio.sleep(LINE_PACE)
                if coordinator.admin.status().watching == 1:
                    break
            assert coordinator.admin.status().watching == 1
        await until(lambda: follower.knows(fact), "the last record", 20)
    assert "stream of node n2 dropped" in coordinator.log.read_text()


@contextlib.contextmanager
def lazy_stream(coordinator: Coordinator, node: Node) -> Iterator[None]:
    """A watch whose answer nobody reads, with a small buffer at this end."""
    host, _, port = coordinator.url.removeprefix("https://").partition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    line = auth.RequestLine("GET", api.WATCH, b"", coordinator.made.pin)
    header = auth.sign_request(node.identity, line, int(time.time()), os.urandom(16))
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect((host, int(port)))
        with context.wrap_socket(plain) as stream:
            head = f"GET {api.WATCH} HTTP/1.1\r\nHost: x\r\nAuthorization: {header}\r\n\r\n"
            stream.sendall(head.encode())
            stream.recv(100)
            yield


async def test_a_full_disk_is_said_and_when_there_is_room_again_all_goes_on(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1") as [node]:
        before = coordinator.admin.status().revision
        coordinator.limit_file_size(1)
        with pytest.raises(Unavailable, match="store"):
            await node.publish(node.record(1))
        assert coordinator.admin.status().revision == before
        coordinator.limit_file_size(None)
        await node.publish(node.record(2))
        assert coordinator.admin.status().revision == before + 1


@pytest.mark.parametrize("coordinator", [Terms(membership=2, lease=2)], indirect=True)
async def test_a_membership_that_ended_can_be_renewed_until_the_node_is_forgotten(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1") as [node]:
        await until(lambda: coordinator.admin.nodes()[0].state == "expired", "its end")
        with pytest.raises(Refused):
            await node.publish(node.record())
        await node.client.renew()
        await node.publish(node.record())


@pytest.mark.parametrize("coordinator", [Terms(membership=2, gone_grace=1)], indirect=True)
async def test_a_node_gone_for_long_is_forgotten_with_its_name_address_and_records(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1") as [node]:
        await node.publish(node.record())
        ended = coordinator.admin.nodes()[0].not_after
    await until(lambda: time.time() > ended + 2, "the grace's end")
    coordinator.stop()
    coordinator.start()
    await until(lambda: coordinator.admin.nodes() == [], "forgetting")
    async with joined(coordinator, "n1") as [again], following(again) as follower:
        assert str(coordinator.admin.nodes()[0].address4) == "10.213.0.1"
        assert follower.mirror.of(node.identity.public) == []


AHEAD = """
import os, time
_now = time.time
time.time = lambda: _now() + 100 * 86400 * os.path.exists({flag!r})
"""


@pytest.mark.parametrize("coordinator", [Terms(lease_grace=1)], indirect=True)
async def test_a_clock_that_is_months_ahead_at_the_start_has_nobody_forgotten_or_refused(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    flag = tmp_path / "ahead"
    async with joined(coordinator, "n1") as [node]:
        await node.publish(node.record())
    coordinator.stop()
    coordinator.RUN = AHEAD.format(flag=str(flag)) + coordinator.RUN
    flag.touch()
    coordinator.start()
    coordinator.token()
    flag.unlink()
    await until(lambda: "the clock was set" in coordinator.log.read_text(), "it is noticed")
    assert [one.name for one in coordinator.admin.nodes()] == ["n1"]
    async with joined(coordinator, "n2") as [other], following(other) as follower:
        assert follower.mirror.of(node.identity.public)


async def test_without_the_root_key_all_but_a_new_issuer_works(coordinator: Coordinator) -> None:
    root = coordinator.state_dir / "root.key"
    away = coordinator.state_dir.parent / "root.key"
    root.rename(away)
    coordinator.stop()
    with pytest.raises(MeshnetError, match=r"root\.key"):
        renew_issuer(coordinator.state_dir)
    coordinator.start()
    async with joined(coordinator, "n1") as [node]:
        await node.client.lease("default")
        await node.client.create_network("appnet")
    before = coordinator.admin.status().issuer_not_after
    coordinator.stop()
    await until(lambda: time.time() > coordinator.started + 1, "another second")
    await asyncio.to_thread(renew_issuer, coordinator.state_dir, away)
    coordinator.start()
    assert coordinator.admin.status().issuer_not_after > before


def test_init_makes_no_second_mesh_where_there_is_one(coordinator: Coordinator) -> None:
    key = (coordinator.state_dir / "root.key").read_bytes()
    with pytest.raises(Conflict):
        initialise(coordinator.state_dir)
    assert (coordinator.state_dir / "root.key").read_bytes() == key


def test_two_coordinators_do_not_share_a_directory_and_the_second_says_so(
    coordinator: Coordinator,
) -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            coordinator.RUN,
            str(coordinator.state_dir),
            str(coordinator.run_dir),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert told.returncode != 0
    assert "a coordinator is running on" in told.stderr


def test_the_store_is_in_wal_mode_with_every_commit_synced(coordinator: Coordinator) -> None:
    with sqlite3.connect(coordinator.state_dir / "store.sqlite") as store:
        assert store.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)


async def test_urls_changed_in_the_configuration_are_told_to_all_nodes(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1") as [node]:
        coordinator.stop()
        path = coordinator.state_dir / "config.json"
        path.write_text(
            path.read_text().replace('"https://127', '"https://new.example:7443", "https://127')
        )
        coordinator.start()
        async with following(node) as follower:
            node.facts = follower.mirror
            told = node.view().statements.coordinators
    assert told is not None
    assert told.urls == ("https://new.example:7443", coordinator.url)


async def test_of_too_many_streams_of_one_node_the_oldest_ends(coordinator: Coordinator) -> None:
    async with joined(coordinator, "n1") as [node]:
        streams = [node.client.watch() for _ in range(6)]
        for stream in streams:
            await anext(stream)
        for stream in streams[:2]:
            with pytest.raises(Unavailable):
                while True:
                    await asyncio.wait_for(anext(stream), 5)
        for stream in streams:
            await stream.aclose()
