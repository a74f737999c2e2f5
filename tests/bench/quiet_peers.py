"""Peers that shake hands and answer probes, and do nothing else: a thousand of them in one process.

    python -m tests.bench.quiet_peers COUNT ADDRESS    peer n on UDP port FIRST_PORT + n of ADDRESS

The responder's half of WireGuard (its whitepaper, section 5.4), enough for an agent that has them
as peers: each handshake is answered, and of what then comes through the tunnel each probe.

    agent → peer   1 │ sender │ ephemeral │ sealed static │ sealed timestamp │ mac1 │ mac2
    peer → agent   2 │ sender │ receiver │ ephemeral │ sealed nothing │ mac1 │ mac2
    either way     4 │ receiver │ counter │ sealed packet
"""

from __future__ import annotations

import hashlib
import hmac
import os
import selectors
import socket
import struct
import sys
from dataclasses import dataclass

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)

from meshnet.model.keys import PrivateKey
from meshnet.wire.probe import ANSWER, MAGIC, SIZE_MAGIC

FIRST_PORT = 20_000
CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
INITIATION, RESPONSE, DATA = 1, 2, 4
DATA_HEADER = struct.Struct("<IIQ")
IP_HEADER = struct.Struct(">BBHHHBBH4s4s")
UDP_HEADER = struct.Struct(">HHHH")
SIZE_ANSWER = 13


def private_key(number: int) -> PrivateKey:
    return PrivateKey.from_random(hashlib.sha256(f"wireguard {number}".encode()).digest())


def digest(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def derive(chain: bytes, data: bytes, count: int) -> list[bytes]:
    """HKDF with BLAKE2s: `count` keys of 32 bytes."""
    secret = hmac.digest(chain, data, "blake2s")
    keys = [b""]
    for number in range(1, count + 1):
        keys.append(hmac.digest(secret, keys[-1] + bytes([number]), "blake2s"))
    return keys[1:]


def nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")


@dataclass
class Session:
    """What came out of one handshake; `theirs` is the index that the agent knows it by."""

    theirs: int
    receiving: bytes
    sending: bytes
    counter: int = 0


class Peer:
    """One peer and its sessions, by its own index."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._public = crypto_scalarmult_base(secret)
        self._sessions: dict[int, Session] = {}

    def answer(self, packet: bytes) -> bytes | None:
        """Return what goes back for a packet that came in."""
        if packet[0] == INITIATION and len(packet) == 148:
            return self._shake(packet)
        if packet[0] == DATA and len(packet) >= DATA_HEADER.size + 16:
            return self._pass(packet)
        return None

    def _shake(self, packet: bytes) -> bytes:
        theirs, ephemeral = packet[4:8], packet[8:40]
        chain = digest(CONSTRUCTION)
        seen = digest(digest(chain, IDENTIFIER), self._public)
        seen, (chain,) = digest(seen, ephemeral), derive(chain, ephemeral, 1)
        chain, key = derive(chain, crypto_scalarmult(self._secret, ephemeral), 2)
        static = crypto_aead_chacha20poly1305_ietf_decrypt(packet[40:88], seen, nonce(0), key)
        seen = digest(digest(seen, packet[40:88]), packet[88:116])

        secret = os.urandom(32)
        own = crypto_scalarmult_base(secret)
        chain, _ = derive(chain, crypto_scalarmult(self._secret, static), 2)
        (chain,), seen = derive(chain, own, 1), digest(seen, own)
        (chain,) = derive(chain, crypto_scalarmult(secret, ephemeral), 1)
        (chain,) = derive(chain, crypto_scalarmult(secret, static), 1)
        chain, shared, key = derive(chain, bytes(32), 3)
        seen = digest(seen, shared)
        nothing = crypto_aead_chacha20poly1305_ietf_encrypt(b"", seen, nonce(0), key)
        receiving, sending = derive(chain, b"", 2)
        index = int.from_bytes(os.urandom(4), "little")
        self._sessions = dict([*self._sessions.items()][-1:])
        self._sessions[index] = Session(int.from_bytes(theirs, "little"), receiving, sending)
        head = struct.pack("<II", RESPONSE, index) + theirs + own + nothing
        mac = hashlib.blake2s(head, key=digest(b"mac1----", static), digest_size=16).digest()
        return head + mac + bytes(16)

    def _pass(self, packet: bytes) -> bytes | None:
        _, index, counter = DATA_HEADER.unpack_from(packet)
        session = self._sessions.get(index)
        if session is None:
            return None
        inner = crypto_aead_chacha20poly1305_ietf_decrypt(
            packet[DATA_HEADER.size :], None, nonce(counter), session.receiving
        )
        reply = answer_probe(inner)
        if not reply:
            return None
        head = DATA_HEADER.pack(DATA, session.theirs, session.counter)
        body = reply + bytes(-len(reply) & 15)
        sealed = crypto_aead_chacha20poly1305_ietf_encrypt(
            body, None, nonce(session.counter), session.sending
        )
        session.counter += 1
        return head + sealed


def answer_probe(packet: bytes) -> bytes:
    """Return the answer to a probe in an IPv4 packet; its own digest says that all is known."""
    if len(packet) < 41 or packet[0] != 0x45 or packet[9] != socket.IPPROTO_UDP:
        return b""
    source, destination = packet[12:16], packet[16:20]
    length = int.from_bytes(packet[24:26], "big")
    probe = packet[28 : 20 + length]
    if not probe.startswith((MAGIC, SIZE_MAGIC)) or probe[4] == ANSWER:
        return b""
    said = probe[:4] + bytes([ANSWER]) + probe[5:]
    said = said[:SIZE_ANSWER] if probe.startswith(SIZE_MAGIC) else said
    total = 28 + len(said)
    head = IP_HEADER.pack(0x45, 0, total, 0, 0, 64, socket.IPPROTO_UDP, 0, destination, source)
    head = head[:10] + checksum(head) + head[12:]
    return head + packet[22:24] + packet[20:22] + UDP_HEADER.pack(0, 0, 8 + len(said), 0)[4:] + said


def checksum(header: bytes) -> bytes:
    total = sum(struct.unpack(">10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")


def serve(count: int, address: str) -> None:
    """Answer for ever."""
    waiting = selectors.DefaultSelector()
    for number in range(1, count + 1):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, FIRST_PORT + number))
        waiting.register(sock, selectors.EVENT_READ, (sock, Peer(private_key(number).raw)))
    while True:
        for ready, _ in waiting.select():
            sock, peer = ready.data
            packet, sender = sock.recvfrom(2048)
            if reply := peer.answer(packet):
                sock.sendto(reply, sender)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
