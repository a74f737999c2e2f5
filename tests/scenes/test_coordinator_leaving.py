"""Shell. Scenes with one coordinator: nodes that leave for good, and what is pruned behind them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from meshnet.coordinator.core import Terms
from meshnet.errors import Conflict, NotFound, Refused
from meshnet.model.addresses import attachment_mac
from meshnet.model.pruning import SPARE
from meshnet.model.records import Attachment, Floor
from meshnet.model.statements import Lease, Membership
from meshnet.wire.fact import seal, sign
from tests.scenes.coordinators import Coordinator, Node, following, joined, running, until

SHORT_GRACE = Terms(lease_grace=1)
SOON = "import meshnet.coordinator.main as main; main.HOUSEKEEPING_SECONDS = 0.2; "
"""Before a coordinator's program: have it look soon for what is over, and not in an hour."""


@pytest.fixture
def coordinator(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Coordinator]:
    with running(tmp_path, getattr(request, "param", None)) as coordinator:
        yield coordinator


async def restarted(coordinator: Coordinator, after: float) -> None:
    """Restart it once a time has come: it keeps house when it starts."""
    await until(lambda: time.time() > after, "the grace's end")
    coordinator.stop()
    coordinator.start()


def states(coordinator: Coordinator) -> dict[str, list[str]]:
    """Return the states of all nodes there are of each name."""
    found: dict[str, list[str]] = {}
    for node in coordinator.admin.nodes():
        found.setdefault(node.name, []).append(node.state)
    return found


async def test_a_node_that_leaves_frees_its_name_and_nothing_of_it_holds_any_more(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1", "n2") as [leaver, other], following(other) as follower:
        await leaver.publish(leaver.record())
        [block] = leaver.granted(await leaver.client.lease("default"))
        await until(lambda: follower.mirror.get(block.slot), "the lease is heard of")
        await leaver.client.leave()
        await until(lambda: not follower.mirror.of(leaver.identity.public), "it is forgotten")
        gone = {fact.slot.kind for fact in follower.mirror if fact.deleted}
        assert gone == {Membership.KIND, Lease.KIND}
        assert follower.snapshots == 1
        with pytest.raises(Refused, match="no member"):
            await leaver.publish(leaver.record())
        with pytest.raises(Refused, match="no member"):
            await leaver.client.leave()
        with pytest.raises(Refused, match="has left"):
            await Node("n1", coordinator.token(), leaver.identity).join()
        async with joined(coordinator, "n1") as [successor]:
            assert sorted(states(coordinator)["n1"]) == ["left", "silent"]
            await successor.publish(successor.record())
            await until(lambda: follower.mirror.of(successor.identity.public), "the next is there")


@pytest.mark.parametrize("coordinator", [SHORT_GRACE], indirect=True)
async def test_what_a_leaver_had_is_given_to_others_after_the_grace(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1", "n2") as [leaver, other]:
        [block] = leaver.granted(await leaver.client.lease("default"))
        address = leaver.view().nodes[leaver.id].membership.address4
        await leaver.client.leave()
        [next_block] = other.granted(await other.client.lease("default"))
        assert isinstance(block.body, Lease)
        assert isinstance(next_block.body, Lease)
        assert not next_block.body.prefix.overlaps(block.body.prefix)  # type: ignore[arg-type]
        async with joined(coordinator, "n1") as [early]:
            assert early.view().nodes[early.id].membership.address4 != address
        await restarted(coordinator, time.time() + 2)
        await until(lambda: states(coordinator)["n1"] == ["silent"], "the first is forgotten")
        async with joined(coordinator, "late") as [late]:
            assert late.view().nodes[late.id].membership.address4 == address
            [again] = late.granted(await late.client.lease("default"))
            assert isinstance(again.body, Lease)
            assert again.body.prefix == block.body.prefix


async def test_a_transient_network_ends_when_the_last_lease_is_given_back(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1", "n2") as [one, two]:
        await one.client.create_network("brief", transient=True)
        await one.client.create_network("lasting")
        for name in ("brief", "lasting"):
            [block] = one.granted(await one.client.lease(name))
            await two.client.lease(name)
            [gone] = one.granted(await one.client.leave_network(name))
            assert gone.deleted
            assert gone.slot == block.slot
            [again] = one.granted(await one.client.lease(name))
            assert again.slot == block.slot
            await one.client.leave_network(name)
        ended = two.granted(await two.client.leave_network("brief"))
        assert [fact.slot.kind for fact in ended] == ["network", "lease"]
        assert all(fact.deleted for fact in ended)
        with pytest.raises(NotFound):
            await two.client.leave_network("brief")
        await two.client.leave_network("lasting")
        await two.client.lease("lasting")
        await two.client.create_network("brief", transient=True)


@pytest.mark.parametrize("coordinator", [SHORT_GRACE], indirect=True)
async def test_the_next_node_of_a_name_keeps_it_when_the_first_is_forgotten(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1") as [first]:
        await first.client.leave()
    async with joined(coordinator, "n1"):
        await restarted(coordinator, time.time() + 2)
        await until(lambda: states(coordinator)["n1"] == ["silent"], "the first is forgotten")
        with pytest.raises(Conflict):
            await Node("n1", coordinator.token()).join()


async def test_a_node_that_leaves_is_said_so_to_who_was_away(coordinator: Coordinator) -> None:
    async with joined(coordinator, "n1", "n2") as [leaver, other]:
        await leaver.publish(leaver.record())
        async with following(other) as follower:
            await until(lambda: follower.mirror.of(leaver.identity.public), "it is heard")
        await leaver.client.leave()
        task = asyncio.create_task(follower.follow_for_ever())
        try:
            await until(lambda: not follower.mirror.of(leaver.identity.public), "it is forgotten")
        finally:
            task.cancel()


async def test_statements_that_say_nothing_any_more_are_pruned_and_nobody_misses_any(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1") as [node], following(node) as follower:
        before = coordinator.admin.status().facts
        for number in range(SPARE + 20):
            await node.client.create_network(f"net{number}")
            await node.client.remove_network(f"net{number}")
        assert coordinator.admin.status().facts == before + SPARE + 20
        coordinator.RUN = SOON + coordinator.RUN
        await restarted(coordinator, 0)
        await until(lambda: len(follower.mirror) <= before + 1, "the nodes hear of it")
        assert coordinator.admin.status().facts == len(follower.mirror)
        assert follower.snapshots == 1
        assert any(isinstance(fact.body, Floor) for fact in follower.mirror)
        coordinator.stop()
        coordinator.start()
        assert coordinator.admin.status().facts == len(follower.mirror)
        await node.client.create_network("net1")
        await until(lambda: any(f.slot.key == "net1" for f in follower.mirror), "life goes on")


async def test_a_nodes_floor_is_taken_and_what_lies_below_stays_away(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1", "n2") as [node, other], following(other) as follower:
        [lease] = node.granted(await node.client.lease("default"))
        assert isinstance(lease.body, Lease)
        address = ip_address(int(lease.body.prefix.network_address) + 9)
        body = Attachment("default", "c1", (address,), attachment_mac(1000, address))
        said = node.say(body)
        taken_back = node.take_back("attachment", "default c1")
        record = node.say(node.record())
        floor = sign(node.identity, Floor(record.sequence), record.sequence + 1)
        for fact in (said, taken_back, record, floor):
            assert (await node.client.publish([seal(fact)])).refused == ()
        await until(lambda: follower.knows(floor), "the floor is heard of")
        assert follower.mirror.of(node.identity.public) == [floor, record]
        revision = coordinator.admin.status().revision
        assert (await node.client.publish([seal(said)])).revision == revision
        coordinator.kill()
        coordinator.start()
        assert coordinator.admin.status().facts == len(follower.mirror)
