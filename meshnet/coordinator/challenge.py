"""Pure. Challenges without memory: what `hello` hands out and `join` and `renew` answer.

    challenge = time 8 | random 16 | MAC 16 over both, by a secret of this process

The X25519 key that goes with a challenge is derived from it and the same secret, so anybody may
say hello as often as they like and nothing is stored. A challenge ends after a minute, and with
the process. That it is used once only is the caller's to remember.
"""

from __future__ import annotations

import hmac

from meshnet.errors import NotAuthentic
from meshnet.model.keys import PrivateKey

SECONDS = 60
RANDOM_BYTES = 16
_MAC_BYTES = 16
_LENGTH = 8 + RANDOM_BYTES + _MAC_BYTES


class StaleChallenge(NotAuthentic):
    """A challenge that was not made by this process, or too long ago."""


def make_challenge(secret: bytes, now: int, random: bytes) -> bytes:
    """Return a challenge that is good until `SECONDS` after `now`."""
    head = now.to_bytes(8, "big") + random
    return head + _mac(secret, head)


def check_challenge(secret: bytes, challenge: bytes, now: int) -> int:
    """Return when a challenge of ours ends; StaleChallenge for any other and for an old one."""
    head, mac = challenge[:-_MAC_BYTES], challenge[-_MAC_BYTES:]
    if len(challenge) != _LENGTH or not hmac.compare_digest(mac, _mac(secret, head)):
        raise StaleChallenge("the challenge is not from this coordinator", "Say hello again.")
    ends = int.from_bytes(head[:8], "big") + SECONDS
    if ends < now:
        raise StaleChallenge("the challenge is too old", "Say hello again.")
    return ends


def ephemeral(secret: bytes, challenge: bytes) -> PrivateKey:
    """Return the X25519 key made for one challenge."""
    return PrivateKey.from_random(hmac.digest(secret, b"ephemeral\0" + challenge, "sha256"))


def _mac(secret: bytes, head: bytes) -> bytes:
    return hmac.digest(secret, b"challenge\0" + head, "sha256")[:_MAC_BYTES]
