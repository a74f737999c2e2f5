"""Shell. A node that lies: it signs what is not true and hands it to a peer.

    python -m tests.scenes.liar PEER LIE VICTIM ADDRESS MAC KEY

Runs on the liar's host and uses its real keys. PEER is the mesh address of whoever is lied to;
VICTIM, ADDRESS, MAC and KEY are the identity key, a container's address and MAC, and the WireGuard
key of the node that is spoken of.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from pathlib import Path

from meshnet.agent.storage import StateDir
from meshnet.local.settings import STATE_DIR
from meshnet.model.keys import PublicKey, SigningKey
from meshnet.model.records import Attachment, Instance, NodeRecord
from meshnet.model.statements import Lease
from meshnet.wire import codec
from meshnet.wire.fact import SignedFact, seal, sign, sign_deletion

PORT = 7420


@dataclass(frozen=True)
class Victim:
    """The node that is lied about."""

    identity: str
    address: str
    mac: str
    key: str


def take_address(me: SigningKey, victim: Victim) -> list[SignedFact]:
    """Claim the victim's container: its address, its MAC, its service."""
    address = (ip_address(victim.address),)
    thief = Attachment(network="default", name="thief", addresses=address, mac=victim.mac)
    instance = Instance(network="default", service="shop", attachment="thief")
    return [seal(sign(me, thief, later())), seal(sign(me, instance, later()))]


def take_lease(me: SigningKey, victim: Victim) -> list[SignedFact]:
    """Give ourselves a lease of the victim's address, and use it."""
    prefix = IPv4Network(victim.address)
    lease = Lease(
        network="default", node=me.public.node_id, prefix=prefix, not_after=int(time.time()) + 3600
    )
    return [seal(sign(me, lease, later())), *take_address(me, victim)]


def forge(me: SigningKey, victim: Victim) -> list[SignedFact]:
    """Speak as the victim, with our own signature."""
    fact = seal(sign_deletion(me, "instance", "default shop c1", later()))
    return [SignedFact(fact.payload.replace(str(me.public), victim.identity), fact.signature)]


def go_back(me: SigningKey, victim: Victim) -> list[SignedFact]:
    """Say something older than what is known."""
    return [seal(sign_deletion(me, "node", "node", 1))]


def take_key(me: SigningKey, victim: Victim) -> list[SignedFact]:
    """Claim the victim's WireGuard key, so that its traffic would come to us."""
    return [seal(sign(me, NodeRecord(wireguard=(PublicKey.parse(victim.key),)), later()))]


LIES: dict[str, Callable[[SigningKey, Victim], list[SignedFact]]] = {
    "address": take_address,
    "lease": take_lease,
    "forged": forge,
    "old": go_back,
    "key": take_key,
}


def later() -> int:
    """Return a sequence above all that an honest clock gives now."""
    return int(time.time() * 1000) + 60_000


def hand_over(peer: str, facts: list[SignedFact]) -> None:
    """Give facts to a peer, as an exchange that it was asked for."""
    with socket.create_connection((peer, PORT), timeout=10) as connection:
        stream = connection.makefile("rwb")
        stream.write(json.dumps({"vector": {}}).encode() + b"\n")
        stream.flush()
        while stream.readline() not in (b"{}\n", b""):
            pass
        stream.writelines(codec.encode(fact) + b"\n" for fact in facts)
        stream.write(b"{}\n")
        stream.flush()
        stream.readline()


def main(peer: str, lie: str, *victim: str) -> None:
    """Tell one lie."""
    me, _ = StateDir(Path(STATE_DIR)).keys()
    hand_over(peer, LIES[lie](me, Victim(*victim)))


if __name__ == "__main__":
    main(*sys.argv[1:])
