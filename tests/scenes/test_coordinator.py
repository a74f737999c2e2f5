"""Shell. Scenes with one coordinator: joining, leasing, publishing, watching.

node ─┐
node ─┼─ TLS on loopback ─ coordinator (a process) ─ unix socket ─ administrator
node ─┘
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from meshnet.coordinator.tls import make_certificate
from meshnet.errors import (
    Conflict,
    MeshnetError,
    NotFound,
    PinMismatch,
    RateLimited,
    Refused,
    TokenDamaged,
    TokenExpired,
    TokenRevoked,
    TokenTruncated,
    TokenUnknown,
    TokenUsedUp,
    Unavailable,
)
from meshnet.model.addresses import attachment_mac
from meshnet.model.keys import IdentityKey, PrivateKey
from meshnet.model.records import Attachment, Instance
from meshnet.model.statements import Lease, Membership, Network, StaticRecord
from meshnet.wire.api import HeldLease
from meshnet.wire.fact import open_fact, seal
from meshnet.wire.token import Token, read_token
from tests.scenes.coordinators import (
    Coordinator,
    Node,
    following,
    free_port,
    joined,
    running,
    until,
)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with running(tmp_path) as coordinator:
        yield coordinator


async def fault_of(node: Node) -> MeshnetError | None:
    """Let a node try to join; return what it was told, None for welcome."""
    try:
        await node.join()
        return None
    except MeshnetError as error:
        return error
    finally:
        await node.client.close()


# Joining


async def test_a_node_joins_and_can_prove_to_anyone_that_it_is_a_member(
    coordinator: Coordinator,
) -> None:
    token = coordinator.token(tags=("office",))
    node = Node("n1", token)
    await node.join()
    await node.client.close()
    view = node.view()
    me = view.nodes[node.id].membership
    assert (me.name, str(me.address4), me.tags) == ("n1", "10.213.0.1", ("office",))
    assert me.wireguard == (node.wireguard.public,)
    assert me.not_after > time.time() + 29 * 86_400
    assert list(view.networks) == ["default"]
    assert view.networks["default"].vni == 1000
    assert view.statements.mesh is not None
    assert me.address6 in view.statements.mesh.prefix6
    assert view.statements.coordinators is not None
    assert view.statements.coordinators.urls == (coordinator.url,)


async def test_of_100_joins_at_once_on_a_token_with_10_uses_10_succeed(
    coordinator: Coordinator,
) -> None:
    token = coordinator.token(uses=10)
    nodes = [Node(f"n{number}", token) for number in range(100)]
    faults = await asyncio.gather(*(fault_of(node) for node in nodes))
    assert Counter(type(fault) for fault in faults) == {type(None): 10, TokenUsedUp: 90}
    members = coordinator.admin.nodes()
    assert len(members) == 10
    assert len({node.address4 for node in members}) == 10
    assert [(t.used, t.state) for t in coordinator.admin.tokens()] == [(10, "used up")]


async def test_a_node_that_joins_again_is_welcomed_again_and_takes_no_second_use(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1") as [node]:
        before = node.view().nodes[node.id]
        await node.join()
        assert node.view().nodes[node.id] == before
    assert [token.used for token in coordinator.admin.tokens()] == [1]


async def test_one_identity_joining_many_times_at_once_takes_one_use(
    coordinator: Coordinator,
) -> None:
    token = coordinator.token(uses=5)
    node = Node("n1", token)
    await asyncio.gather(*(node.join() for _ in range(8)))
    await node.client.close()
    assert [token.used for token in coordinator.admin.tokens()] == [1]
    assert len(coordinator.admin.nodes()) == 1


async def test_each_useless_token_has_its_own_error_and_exit_code(
    coordinator: Coordinator,
) -> None:
    good = coordinator.token(uses=9)
    used = coordinator.token()
    assert await fault_of(Node("first", used)) is None
    revoked = coordinator.admin.create_token(600)
    coordinator.admin.revoke_token(revoked.id)
    short = coordinator.admin.create_token(1)
    await until(lambda: time.time() >= short.expires, "the token's end")
    tokens = {
        "unknown": Token(good.urls, good.pins, good.root, bytes(16)),
        "used up": used,
        "revoked": read_token(revoked.text),
        "expired": read_token(short.text),
    }
    faults = {word: await fault_of(Node("n1", token)) for word, token in tokens.items()}
    assert {word: (type(e), e and e.exit_code) for word, e in faults.items()} == {
        "unknown": (TokenUnknown, 12),
        "used up": (TokenUsedUp, 15),
        "revoked": (TokenRevoked, 14),
        "expired": (TokenExpired, 13),
    }
    assert len({error.message for error in faults.values() if error}) == 4
    assert all(error.hint for error in faults.values() if error)


def test_truncated_and_bit_flipped_tokens_have_their_own_error_and_exit_code(
    coordinator: Coordinator,
) -> None:
    text = coordinator.admin.create_token(600).text
    for spoiled, kind, code in (
        (text[:-5], TokenTruncated, 10),
        (text[:40] + ("A" if text[40] != "A" else "B") + text[41:], TokenDamaged, 11),
    ):
        with pytest.raises(kind) as caught:
            read_token(spoiled)
        assert caught.value.exit_code == code


async def test_a_coordinator_with_another_key_is_told_nothing(tmp_path: Path) -> None:
    key, certificate = make_certificate()
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "certificate").write_bytes(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while more := await reader.read(4096):
                said += more
        writer.close()
        heard.append(said)

    port = free_port()
    server = await asyncio.start_server(listen, "127.0.0.1", port, ssl=context)
    token = Token(
        (f"https://127.0.0.1:{port}",), ("ab" * 32,), IdentityKey(bytes(32)), b"never to be sent"
    )
    node = Node("n1", token)
    async with server:
        fault = await fault_of(node)
        with pytest.raises(PinMismatch):
            await node.client.hello()
        await until(lambda: len(heard) == 2, "both have hung up")
    await node.client.close()
    assert isinstance(fault, PinMismatch)
    assert fault.exit_code == 16
    assert "another key" in fault.message
    assert heard == [b"", b""]


async def test_with_one_coordinator_gone_the_next_is_asked(coordinator: Coordinator) -> None:
    token = coordinator.token()
    nowhere = f"https://127.0.0.1:{free_port()}"
    node = Node("n1", Token((nowhere, *token.urls), token.pins, token.root, token.secret))
    await node.join()
    await node.publish(node.record())
    assert node.client.url == coordinator.url
    await node.client.close()


async def test_a_name_that_is_taken_is_a_clear_error_and_costs_no_use(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1") as [node]:
        block = node.granted(await node.client.lease("default"))[0].body
        assert isinstance(block, Lease)
        port = attachment(block)
        await node.publish(port, Instance("default", "web", port.name))
        token = coordinator.token(uses=3)
        for name, holder in (("n1", "another node"), ("default", "a network"), ("web", "service")):
            fault = await fault_of(Node(name, token))
            assert isinstance(fault, Conflict)
            assert holder in fault.message
        with pytest.raises(Conflict, match="a node"):
            await node.client.create_network("n1")
        with pytest.raises(Conflict, match="service"):
            await node.client.create_network("web")
        refused = (await node.publish(Instance("default", "n1", port.name))).refused
        assert [r.reason for r in refused] == ["service name n1 is that of a node"]
    assert [t.used for t in coordinator.admin.tokens() if t.uses == 3] == [0]


async def test_guesses_at_tokens_are_limited_and_the_limit_names_a_time(
    coordinator: Coordinator,
) -> None:
    good = coordinator.token(uses=2)
    wrong = [Token(good.urls, good.pins, good.root, bytes([n]) * 16) for n in range(12)]
    faults = [type(await fault_of(Node("n1", token))) for token in wrong]
    assert faults == [TokenUnknown] * 10 + [RateLimited] * 2
    assert coordinator.log.read_text().count("refused: this mesh never gave out") == 10


async def test_no_secret_is_in_the_coordinators_files_or_log(coordinator: Coordinator) -> None:
    token = coordinator.token()
    node = Node("n1", token)
    await node.join()
    await node.client.close()
    coordinator.stop()
    secrets = [token.secret, node.identity.seed, node.wireguard.raw]
    forms = [form for raw in secrets for form in (raw, raw.hex().encode())]
    for path in [*coordinator.state_dir.iterdir(), coordinator.log]:
        data = path.read_bytes()
        assert not any(form in data for form in forms), path
        assert path == coordinator.log or path.stat().st_mode & 0o077 == 0, path


# Leases and networks


def attachment(block: Lease, host: int = 5, name: str = "c1") -> Attachment:
    address = block.prefix.network_address + host
    return Attachment(block.network, name, (address,), attachment_mac(1000, address))


async def lease(node: Node, *args: object, **more: object) -> Lease:
    [fact] = node.granted(await node.client.lease(*args, **more))  # type: ignore[arg-type]
    assert isinstance(fact.body, Lease)
    assert fact.body.node == node.id
    return fact.body


async def test_every_node_gets_blocks_of_its_own_in_both_families(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1", "n2") as [one, two]:
        blocks = [await lease(node, "default", family) for family in (4, 6) for node in (one, two)]
        assert [str(block.prefix) for block in blocks[:2]] == ["10.214.0.0/26", "10.214.0.64/26"]
        assert [block.prefix.prefixlen for block in blocks[2:]] == [112, 112]
        assert len({block.prefix for block in blocks}) == 4


async def test_a_lease_whose_answer_was_lost_is_answered_again_and_one_more_is_another(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1") as [node]:
        first = await lease(node, "default")
        again = await lease(node, "default")
        more = await lease(node, "default", known=[first.prefix])
        assert again.prefix == first.prefix != more.prefix


async def test_a_fixed_address_goes_to_the_first_who_asks(coordinator: Coordinator) -> None:
    async with joined(coordinator, "n1", "n2") as [one, two]:
        address = ip_address("10.214.9.9")
        assert str((await lease(one, "default", address=address)).prefix) == "10.214.9.9/32"
        assert str((await lease(one, "default", address=address)).prefix) == "10.214.9.9/32"
        with pytest.raises(Conflict, match="is leased to node"):
            await two.client.lease("default", address=address)
        block = await lease(one, "default")
        inside = await lease(one, "default", address=block.prefix.network_address + 7)
        assert inside.prefix == block.prefix


async def test_a_network_that_is_full_says_so(coordinator: Coordinator) -> None:
    async with joined(coordinator, "n1", "n2") as [one, two]:
        await one.client.create_network("tiny", [ip_network("10.99.0.0/29")])
        blocks: list[Lease] = []
        with pytest.raises(Conflict, match="full"):
            while True:
                blocks.append(await lease(one, "tiny", known=[b.prefix for b in blocks]))
        assert len(blocks) == 5
        with pytest.raises(Conflict, match="full"):
            await two.client.lease("tiny")


async def test_networks_are_made_by_members_and_removed_when_nobody_is_attached(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1", "n2") as [one, two]:
        [made] = one.granted(await one.client.create_network("appnet"))
        assert isinstance(made.body, Network)
        assert (made.body.vni, str(made.body.prefixes[0])) == (1001, "10.215.0.0/16")
        with pytest.raises(Conflict, match="appnet"):
            await two.client.create_network("appnet")
        block = await lease(two, "appnet")
        await two.publish(attachment(block))
        with pytest.raises(Conflict, match="c1 on n2"):
            await one.client.remove_network("appnet")
        await two.client.publish([seal(two.take_back("attachment", "appnet c1"))])
        [removed] = one.granted(await one.client.remove_network("appnet"))
        assert removed.deleted
        with pytest.raises(NotFound):
            await one.client.lease("appnet")
        with pytest.raises(Refused):
            await one.client.remove_network("default")
        [again] = one.granted(await one.client.create_network("appnet"))
        assert isinstance(again.body, Network)
        assert again.body.vni == 1002


async def test_renewal_proves_new_keys_and_keeps_the_leases_that_are_named(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1", "n2") as [node, other]:
        kept, dropped = await lease(node, "default"), await lease(node, "default", 6)
        foreign = await lease(other, "default")
        new = PrivateKey.from_random(b"\7" * 32)
        names = [HeldLease("default", block.prefix) for block in (kept, foreign)]
        facts = node.granted(await node.client.renew(names, [new]))
        member, *leases = [fact.body for fact in facts]
        assert isinstance(member, Membership)
        assert member.wireguard == (new.public,)
        assert [body.prefix for body in leases if isinstance(body, Lease)] == [kept.prefix]
        assert dropped.prefix not in [b.prefix for b in leases if isinstance(b, Lease)]
        with pytest.raises(Conflict, match="WireGuard key"):
            await other.client.renew(keys=[new])


# Publishing and watching


async def test_what_one_publishes_all_others_hear_with_the_right_digest(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1", "n2") as [one, two], following(two) as follower:
        published = await one.publish(one.record())
        await until(
            lambda: (follower.revision or 0) >= published.revision, "the revision published"
        )
        assert [f.body for f in follower.mirror.of(one.identity.public)] == [one.record()]
        assert follower.snapshots == 1


async def test_a_publish_of_someone_elses_facts_is_refused_and_changes_nothing(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1", "n2") as [one, two]:
        before = coordinator.fingerprint
        with pytest.raises(Refused, match="not the word of"):
            await one.client.publish([seal(one.say(one.record())), seal(two.say(two.record()))])
        assert coordinator.fingerprint == before


async def test_a_fact_that_would_not_hold_is_named_and_the_others_are_taken(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1", "n2") as [one, two]:
        mine, theirs = await lease(one, "default"), await lease(two, "default")
        answer = await one.publish(
            Instance("default", "web", "c1"),
            attachment(mine),
            attachment(theirs, name="c2"),
            Instance("default", "db", "c2"),
        )
        assert [(r.kind, r.key) for r in answer.refused] == [
            ("attachment", "default c2"),
            ("instance", "default db c2"),
        ]
        async with following(two) as follower:
            said = [fact.slot.key for fact in follower.mirror.of(one.identity.public)]
        assert said == ["default c1", "default web c1"]


async def test_an_old_sequence_is_passed_over(coordinator: Coordinator) -> None:
    async with joined(coordinator, "n1") as [node]:
        old, new = node.say(node.record(1)), node.say(node.record(2))
        await node.client.publish([seal(new)])
        before = coordinator.fingerprint
        assert (await node.client.publish([seal(old)])).refused == ()
        assert coordinator.fingerprint == before


async def test_a_stream_resumes_from_its_revision_without_a_snapshot(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1", "n2") as [one, two]:
        async with following(two) as first:
            pass
        await one.publish(one.record())
        stream = two.client.watch(first.revision, first.store)
        line = await anext(stream)
        await stream.aclose()
        assert not line.snapshot
        assert [open_fact(fact).body for fact in line.facts] == [one.record()]


@pytest.mark.parametrize("gap", ["another store", "a revision to come", "no revision"])
async def test_after_a_gap_there_is_a_snapshot(coordinator: Coordinator, gap: str) -> None:
    async with joined(coordinator, "n1") as [node]:
        status = coordinator.admin.status()
        revision, store = {
            "another store": (status.revision, "0123456789abcdef"),
            "a revision to come": (status.revision + 1, status.store),
            "no revision": (None, ""),
        }[gap]
        line = await anext(node.client.watch(revision, store))
        assert (line.snapshot, line.store) == (True, status.store)
        assert len(line.facts) == status.facts


async def test_when_a_node_goes_the_others_are_told_to_look(coordinator: Coordinator) -> None:
    async with joined(coordinator, "n1", "n2") as [one, two], following(two) as follower:
        async with following(one):
            await until(lambda: coordinator.admin.status().watching == 2, "two streams")
        await until(lambda: follower.suspects, "a hint", 5)
        assert follower.suspects == [one.id]


async def test_a_node_that_comes_back_at_once_is_no_suspect(coordinator: Coordinator) -> None:
    async with joined(coordinator, "n1", "n2") as [one, two], following(two) as follower:
        for _ in range(2):
            async with following(one):
                await until(lambda: coordinator.admin.status().watching == 2, "two streams")
        await until(lambda: follower.suspects, "the one hint of the last parting", 5)
        assert follower.suspects == [one.id]


async def test_a_revoked_node_loses_its_stream_its_say_and_its_name(
    coordinator: Coordinator,
) -> None:
    async with joined(coordinator, "n1", "n2") as [one, two], following(two) as follower:
        stream = one.client.watch()
        await anext(stream)
        coordinator.admin.revoke_node("n1")
        with pytest.raises(Unavailable):
            while True:
                await asyncio.wait_for(anext(stream), 5)
        for asked in (one.publish(one.record()), one.client.renew(), one.client.lease("default")):
            with pytest.raises(Refused):
                await asked
        again = await fault_of(Node("n1", coordinator.token(), one.identity))
        assert isinstance(again, Refused)
        assert await fault_of(Node("n1", coordinator.token())) is None
        two.facts = follower.mirror
        await until(lambda: one.id not in two.view().nodes, "the old n1 is forgotten")
        await until(lambda: two.view().named("n1") is not None, "the new n1")


async def test_static_records_are_set_replaced_and_removed(coordinator: Coordinator) -> None:
    admin = coordinator.admin
    admin.set_record(StaticRecord("Printer", "a", ("192.0.2.7",)))
    admin.set_record(StaticRecord("printer", "A", ("192.0.2.8",), 30))
    assert admin.records() == [StaticRecord("printer", "A", ("192.0.2.8",), 30)]
    for bad in (StaticRecord("x", "A", ("nonsense",)), StaticRecord("x..y", "A", ("192.0.2.1",))):
        with pytest.raises(MeshnetError):
            admin.set_record(bad)
    admin.remove_record("printer", "A")
    assert admin.records() == []
    with pytest.raises(NotFound):
        admin.remove_record("printer", "A")
