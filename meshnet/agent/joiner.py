"""Shell. A joiner's side of the dialogue in `wire.api`: hello, then join, on one connection.

Context: a machine joins once, by a command that a person waits for, and asks two questions.
Choice: `http.client`, which is there in a blink; the agent's client, with its streams and its many
requests at a time, costs a tenth of a second to import. Price: what both must do alike, the check
of the key before the first byte of HTTP, is written twice.
"""

from __future__ import annotations

import http.client
import random
import socket
import ssl
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from meshnet import __version__
from meshnet.agent.faults import (
    StaleChallenge,
    full_jitter,
    means_next,
    read_problem,
    refusal,
    unreachable,
    worst,
    wrong_key,
)
from meshnet.errors import BadInput, MeshnetError, Unavailable
from meshnet.model.keys import PrivateKey, SigningKey
from meshnet.wire import api, auth, codec
from meshnet.wire.api import Hello, Joined
from meshnet.wire.pin import spki_pin
from meshnet.wire.token import Token

T = TypeVar("T")

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 15.0
PATIENCE = 10.0
"""Seconds to wait for a coordinator that does not answer: it may be starting."""


def join(token: Token, name: str, identity: SigningKey, wireguard: PrivateKey) -> Joined:
    """Redeem a token at any of its coordinators, proving both keys.

    Raises the TokenError that applies, PinMismatch, or Unavailable when none answers for a while.
    """
    deadline = time.monotonic() + PATIENCE
    attempt = 0
    while True:
        try:
            return _join_any(token, _Claimant(token, name, identity, wireguard))
        except Unavailable as error:
            pause = full_jitter(attempt, random.random())
            if type(error) is not Unavailable or time.monotonic() + pause >= deadline:
                raise
        time.sleep(pause)
        attempt += 1


@dataclass(frozen=True, slots=True)
class _Claimant:
    """Who wants to join."""

    token: Token
    name: str
    identity: SigningKey
    wireguard: PrivateKey

    def request(self, hello: Hello, pin: str) -> api.JoinRequest:
        """Return what is said after `hello` to the server whose key has this pin."""
        claim = auth.JoinClaim(
            self.name,
            self.identity.public,
            self.wireguard.public,
            self.token.secret,
            hello.challenge,
            pin,
        )
        transcript = claim.transcript()
        return api.JoinRequest(
            claim.secret,
            claim.name,
            claim.identity,
            claim.wireguard,
            claim.challenge,
            self.identity.sign(transcript),
            auth.prove(self.wireguard, hello.ephemeral, transcript),
        )


def _join_any(token: Token, claimant: _Claimant) -> Joined:
    faults: list[MeshnetError] = []
    for url in token.urls:
        try:
            with closing(_Line(url, token.pins)) as line:
                return _join_at(line, claimant)
        except MeshnetError as error:
            if not means_next(error):
                raise
            faults.append(error)
    raise worst(faults)


def _join_at(line: _Line, claimant: _Claimant) -> Joined:
    """Say hello and ask, both once more when the challenge has become stale."""
    try:
        return _redeem(line, claimant)
    except StaleChallenge:
        return _redeem(line, claimant)


def _redeem(line: _Line, claimant: _Claimant) -> Joined:
    hello = line.ask("GET", api.HELLO, Hello)
    return line.ask("POST", api.JOIN, Joined, claimant.request(hello, line.pin))


class _Line:
    """A connection to one coordinator, whose key was found to have the pin `pin`."""

    def __init__(self, url: str, pins: tuple[str, ...]) -> None:
        self._url = url
        parts = urlsplit(url)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=CONNECT_SECONDS, context=context
        )
        self._connection.auto_open = 0
        try:
            self._connection.connect()
        except (OSError, ValueError) as error:
            raise unreachable(url, error) from error
        self.pin = self._check(pins)

    def _check(self, pins: tuple[str, ...]) -> str:
        sock: socket.socket = self._connection.sock
        assert isinstance(sock, ssl.SSLSocket)
        sock.settimeout(ANSWER_SECONDS)
        try:
            pin = spki_pin(sock.getpeercert(binary_form=True) or b"")
        except BadInput:
            pin = ""
        if pin not in pins:
            self.close()
            raise wrong_key(self._url)
        return pin

    def ask(self, method: str, path: str, kind: type[T], request: object = None) -> T:
        """Return the answer to one request; raise what the coordinator refuses with."""
        body = None if request is None else codec.encode(request)
        headers = {"Content-Type": "application/json", "User-Agent": f"meshnet/{__version__}"}
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            text = response.read(api.LINE_LIMIT)
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self._url, error) from error
        if response.status >= 300:
            raise refusal(read_problem(self._url, text, response.status), response.status)
        return codec.decode(text, kind, f"answer of coordinator {self._url}")

    def close(self) -> None:
        self._connection.close()
