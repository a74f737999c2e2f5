"""Shell. A node that lies is ignored by all others, and that is logged and counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests.lab import wait_until
from tests.lab.mesh import Mesh, Node
from tests.scenes.mesh_scenes import SEGMENT, Box, attached, can_ping, everywhere, mesh_of

pytestmark = [pytest.mark.root, pytest.mark.slow]

REFUSED = "meshnet_facts_refused_total"


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_of(3, "an honest node, a liar, a witness") as mesh:
        yield mesh


@pytest.fixture(scope="module")
def shop(mesh: Mesh) -> Iterator[Box]:
    with attached(mesh.nodes["n1"], "c1", "--service", "shop", "--port", "80/tcp") as box:
        wait_until(lambda: everywhere(list(mesh), "shop.mesh", [box.address4]), 10, "all know it")
        yield box


def identity_of(node: Node) -> str:
    """Return a node's identity key: the writer of its own records in its journal."""
    lines = node.host.file("/var/lib/meshnet/facts.ndjson").read_text().splitlines()
    facts = [json.loads(json.loads(line)["payload"]) for line in lines]
    own = node.status().public_key
    return next(
        str(fact["writer"])
        for fact in facts
        if fact["kind"] == "node" and fact["body"] and own in fact["body"]["wireguard"]
    )


def lie(mesh: Mesh, what: str, shop: Box) -> None:
    """Have n2 tell n3 a lie about n1."""
    honest, liar, witness = (mesh.nodes[name] for name in ("n1", "n2", "n3"))
    victim = (identity_of(honest), shop.address4, shop.given.mac, honest.status().public_key)
    words = (sys.executable, "-m", "tests.scenes.liar", witness.address4, what, *victim)
    liar.host.run(*words)


def entries(witness: Node, honest: Node) -> list[str]:
    """Return what a node's kernel holds for another: its FDB entries and its allowed IPs."""
    tunnel = witness.host.output("wg", "show", "meshnet0", "allowed-ips")
    fdb = witness.host.output(*SEGMENT, "bridge", "fdb", "show", "brport", "vx0")
    return sorted(line for line in (tunnel + fdb).splitlines() if honest.address4 in line)


def test_an_old_word_changes_nothing(mesh: Mesh, shop: Box) -> None:
    witness = mesh.nodes["n3"]
    digest, counted = witness.status().digest, witness.metric(REFUSED)
    lie(mesh, "old", shop)
    wait_until(lambda: witness.metric(REFUSED) > counted, 10, "the old word is counted")
    assert "is outdated: deleted node" in witness.log()
    assert witness.status().digest == digest
    assert sorted(peer.name for peer in witness.peers() if peer.reachable) == ["n1", "n2"]


SAID = {
    "address": "is in no lease of the node",
    "lease": "only an issuer may state this",
    "forged": "refused",
    "key": "WireGuard key",
}


@pytest.mark.parametrize("what", SAID)
def test_a_lie_is_ignored_logged_and_counted(mesh: Mesh, shop: Box, what: str) -> None:
    honest, witness = mesh.nodes["n1"], mesh.nodes["n3"]
    before, counted = entries(witness, honest), witness.metric(REFUSED)
    said = witness.log().count(SAID[what])
    lie(mesh, what, shop)
    wait_until(lambda: witness.metric(REFUSED) > counted, 10, "the lie is counted")
    assert witness.agent is not None
    assert witness.agent.text().count(SAID[what]) > said
    assert entries(witness, honest) == before
    assert everywhere(list(mesh), "shop.mesh", [shop.address4])
    with attached(mesh.nodes["n3"], "c3") as other:
        wait_until(lambda: can_ping(other.container, shop.address4), 5, "traffic is untouched")
