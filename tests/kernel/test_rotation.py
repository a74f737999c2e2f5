"""Shell. A node's WireGuard key changes while agents are killed or away, or without coordinator.

That a change loses no packet where all goes well is in `test_hitless`, that nothing is in clear in
`test_secrecy`. An agent is killed at MESHNET_KEY_CHANGES instants of a change, one by default.
"""

from __future__ import annotations

import base64
import json
import os
import time

import pytest

from meshnet.model.keys import PrivateKey
from meshnet.wire.local import KeyRotated, decode
from tests.lab import wait_until
from tests.lab.mesh import PROGRAM, Mesh, Node
from tests.lab.waiting import seconds_until

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.kernel]

INSTANTS = int(os.environ.get("MESHNET_KEY_CHANGES", "1"))
A_CHANGE = 1.8
"""Seconds that a change takes, about: most of them until the peers have heard of the new key."""

KEYS = "/var/lib/meshnet/keys.json"


def held_by(mesh: Mesh, node: Node) -> set[str]:
    """Return the keys that the others hold a node by."""
    others = (other for other in mesh if other is not node)
    return {peer.public_key for other in others for peer in other.peers() if peer.name == node.name}


def is_done(mesh: Mesh, node: Node) -> bool:
    """Say whether no change is under way and everybody reaches the node by its key."""
    status = node.status()
    return not status.next_public_key and held_by(mesh, node) == {status.public_key}


def wait_until_done(mesh: Mesh, node: Node) -> None:
    wait_until(lambda: is_done(mesh, node), 30, lambda: f"{node.status()}\n{held_by(mesh, node)}")
    mesh.wait_until_whole()
    wait_until(lambda: not any(each.plan() for each in mesh), 10, "nothing is left to do")


@pytest.mark.parametrize("instant", range(INSTANTS))
def test_an_agent_that_is_killed_while_it_changes_its_key_goes_on_from_there(
    mesh: Mesh, instant: int
) -> None:
    node = mesh.nodes["n1"]
    asking = node.host.start("rotate", PROGRAM, "key", "rotate")
    time.sleep((instant + 1) * A_CHANGE / (INSTANTS + 1))
    node.kill()
    node.start()
    asking.kill()
    wait_until_done(mesh, node)


def test_a_peer_whose_agent_is_down_is_asked_first_and_finds_the_new_key_when_it_is_back(
    mesh: Mesh,
) -> None:
    node, away = mesh.nodes["n2"], mesh.nodes["n4"]
    before = node.status().public_key
    away.kill()
    refused = node.host.run(PROGRAM, "key", "rotate", check=False)
    assert refused.returncode == 4, refused.stderr
    assert "n4 can be reached" in refused.stderr
    assert node.status().public_key == before
    told = decode(
        node.meshnet("key", "rotate", "--force", "--json").encode(), KeyRotated, "what it printed"
    )
    assert (told.previous, told.waiting) == (before, ("n4",))
    away.start()
    wait_until_done(mesh, node)


def test_a_node_that_changed_its_key_and_could_tell_nobody_is_found_by_its_handshake(
    mesh: Mesh,
) -> None:
    """As after a crash between the change and the word of it, with every coordinator gone."""
    node, deaf = mesh.nodes["n3"], mesh.nodes["n4"]
    peers = [mesh.nodes["n1"], mesh.nodes["n2"]]
    deaf.kill()
    asking = node.host.start("rotate", PROGRAM, "key", "rotate")
    wait_until(lambda: all(names_two_keys(each, "n3") for each in peers), 10, "n3 announces a key")
    node.kill()
    asking.kill()
    mesh.coordinator.kill()
    deaf.start()
    stored = node.host.file(KEYS)
    keys = json.loads(stored.read_bytes())
    stored.write_text(json.dumps({**keys, "wireguard": keys["next"], "next": ""}))
    node.start()
    peers.append(deaf)
    took = seconds_until(
        lambda: all(reaches(each, "n3", keys["next"]) for each in peers),
        40,
        lambda: f"{[each.peers() for each in peers]}",
    )
    assert took < 20
    mesh.coordinator.start()
    wait_until_done(mesh, node)


def names_two_keys(node: Node, name: str) -> bool:
    return any(peer.name == name and peer.next_public_key for peer in node.peers())


def reaches(node: Node, name: str, private_key: str) -> bool:
    """Say whether a node reaches another, and holds it by the public half of this key."""
    key = str(PrivateKey(base64.b64decode(private_key)).public)
    return any(
        (peer.name, peer.public_key) == (name, key) and peer.reachable for peer in node.peers()
    )
