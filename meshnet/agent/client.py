"""Shell. A node's side of the dialogue in `wire.api`: ask a coordinator, any of them.

Coordinators are tried in turn, beginning with the one that answered last. Each connection is
checked against the pins between the TLS handshake and the first byte of HTTP, so that nothing,
least of all a token's secret, is ever said to a server that holds another key. Certificates are
not looked at otherwise: names and dates add nothing to a pin, and no authority is asked.

Every fault of the network becomes `Unavailable`, and every refusal the error the coordinator had.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import aiohttp
import msgspec

from meshnet import __version__
from meshnet.agent.faults import (
    StaleChallenge,
    means_next,
    read_problem,
    refusal,
    unreachable,
    worst,
    wrong_key,
)
from meshnet.errors import BadInput, MeshnetError, PinMismatch, Unavailable
from meshnet.model.addresses import Address, Prefix
from meshnet.model.keys import PrivateKey, SigningKey
from meshnet.model.names import check_name
from meshnet.wire import api, auth, codec
from meshnet.wire.api import Granted, HeldLease, Hello, Line, Published
from meshnet.wire.fact import SignedFact
from meshnet.wire.pin import spki_pin

T = TypeVar("T")

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 15.0
SILENCE_SECONDS = 3.0 * api.BEAT_SECONDS


class PinCheck(aiohttp.Fingerprint):
    """Lets a connection live when its TLS key is one of `pins`; `seen` is the pin it had."""

    def __init__(self, pins: Sequence[str]) -> None:
        super().__init__(bytes.fromhex(pins[0]))
        self._pins = frozenset(pins)
        self.seen = pins[0] if len(pins) == 1 else ""

    def check(self, transport: asyncio.BaseTransport) -> None:
        """Called by aiohttp between handshake and request."""
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        host, port, *_ = transport.get_extra_info("peername") or ("", 0)
        try:
            pin = spki_pin((tls and tls.getpeercert(binary_form=True)) or b"")
        except BadInput:
            pin = ""
        if pin not in self._pins:
            raise aiohttp.ServerFingerprintMismatch(b"", bytes.fromhex(pin), host, port)
        self.seen = pin


class CoordinatorClient:
    """Speaks with the coordinators at `urls`, as the node that holds `identity`."""

    def __init__(self, urls: Sequence[str], pins: Sequence[str], identity: SigningKey) -> None:
        self._urls = list(urls)
        self._checks = {url: PinCheck(pins) for url in urls}
        self._identity = identity
        self._session: aiohttp.ClientSession | None = None
        self._clock_offset = 0

    @property
    def url(self) -> str:
        """The coordinator that answered last, or the first to be tried."""
        return self._urls[0]

    async def close(self) -> None:
        """Close the connections; the client may be used again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # Requests

    async def hello(self) -> Hello:
        """Ask who is there."""
        return await self._any(self._hello)

    async def renew(
        self, leases: Iterable[HeldLease] = (), keys: Iterable[PrivateKey] = ()
    ) -> Granted:
        """Renew the membership and `leases`; `keys` replace the certified WireGuard keys if any."""
        leases, keys = tuple(leases), tuple(keys)

        async def once(url: str, hello: Hello) -> Granted:
            pin, identity = self._checks[url].seen, self._identity.public
            proofs = tuple(
                api.KeyProof(
                    key.public,
                    auth.prove(
                        key,
                        hello.ephemeral,
                        auth.key_transcript(hello.challenge, pin, identity, key.public),
                    ),
                )
                for key in keys
            )
            request = api.RenewRequest(hello.challenge, proofs, leases)
            return await self._ask(url, "POST", api.RENEW, Granted, request)

        return await self._any(lambda url: self._greeting(url, once))

    async def lease(
        self,
        network: str,
        family: int = 4,
        address: Address | None = None,
        known: Sequence[Prefix] = (),
    ) -> Granted:
        """Ask for a block of a network, or for one address of it; see `LeaseRequest`."""
        request = api.LeaseRequest(network, 6 if family == 6 else 4, address, tuple(known))
        return await self._post(api.LEASES, Granted, request)

    async def publish(self, facts: Sequence[SignedFact]) -> Published:
        """Hand over facts of this node; when it returns they are on the coordinator's disk."""
        return await self._post(api.PUBLISH, Published, api.PublishRequest(tuple(facts)))

    async def leave(self) -> Granted:
        """Take this node out of the mesh for good; Refused when it is none of it any more."""
        return await self._any(lambda url: self._ask(url, "POST", api.LEAVE, Granted))

    async def create_network(
        self,
        name: str,
        prefixes: Sequence[Prefix] = (),
        *,
        flood: bool = False,
        transient: bool = False,
    ) -> Granted:
        """Make a network; Conflict when the name is taken."""
        request = api.NetworkRequest(name, tuple(prefixes), flood, transient)
        return await self._post(api.NETWORKS, Granted, request)

    async def remove_network(self, name: str) -> Granted:
        """Remove a network nobody is attached to."""
        path = f"{api.NETWORKS}/{check_name(name, 'network')}"
        return await self._any(lambda url: self._ask(url, "DELETE", path, Granted))

    async def leave_network(self, name: str) -> Granted:
        """Give back all leases of a network that this node has nothing attached to."""
        path = f"{api.NETWORKS}/{check_name(name, 'network')}/leave"
        return await self._any(lambda url: self._ask(url, "POST", path, Granted))

    async def watch(self, revision: int | None = None, store: str = "") -> AsyncIterator[Line]:
        """Yield the lines of a stream from `revision` of `store` on; None asks for a snapshot.

        Ends with Unavailable when the stream breaks or says nothing for three beats.
        """
        query = "" if revision is None else f"?revision={revision}&store={store}"
        response = await self._any(lambda url: self._open(url, api.WATCH + query))
        try:
            async for text in _lines(response):
                yield codec.decode(text, Line, "line of the stream")
        finally:
            response.close()

    # One request to one coordinator

    async def _greeting(self, url: str, once: Callable[[str, Hello], Awaitable[T]]) -> T:
        """Say hello and ask what needs a challenge, both once more when that has become stale."""
        try:
            return await once(url, await self._hello(url))
        except StaleChallenge:
            return await once(url, await self._hello(url))

    async def _hello(self, url: str) -> Hello:
        return await self._ask(url, "GET", api.HELLO, Hello)

    async def _post(self, path: str, kind: type[T], request: msgspec.Struct) -> T:
        return await self._any(lambda url: self._ask(url, "POST", path, kind, request))

    async def _ask(
        self, url: str, method: str, path: str, kind: type[T], request: object = None
    ) -> T:
        body = b"" if request is None else codec.encode(request)
        response = await self._send(url, method, path, body, ANSWER_SECONDS)
        async with response:
            text = await _guarded(url, response.read())
        return codec.decode(text, kind, f"answer of coordinator {url}")

    async def _open(self, url: str, path: str) -> aiohttp.ClientResponse:
        return await self._send(url, "GET", path, b"", None)

    async def _send(
        self, url: str, method: str, path: str, body: bytes, limit: float | None
    ) -> aiohttp.ClientResponse:
        """Send, once more by the coordinator's clock if ours is off; return a success."""
        for last in (False, True):
            response = await _guarded(url, self._twice(url, method, path, body, limit))
            if response.status < 300:
                return response
            async with response:
                text = await _guarded(url, response.read())
            problem = read_problem(url, text, response.status)
            if last or problem.code != api.CLOCK:
                break
            self._clock_offset = problem.time - int(time.time())
        raise refusal(problem, response.status)

    async def _twice(
        self, url: str, method: str, path: str, body: bytes, limit: float | None
    ) -> aiohttp.ClientResponse:
        """Send; again when the line from the last request turns out to have ended meanwhile."""
        try:
            return await self._request(url, method, path, body, limit)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            return await self._request(url, method, path, body, limit)

    async def _request(
        self, url: str, method: str, path: str, body: bytes, limit: float | None
    ) -> aiohttp.ClientResponse:
        check = self._checks[url]
        line = auth.RequestLine(method, path, body, check.seen)
        now = int(time.time()) + self._clock_offset
        headers = {"Content-Type": "application/json"}
        if path not in (api.HELLO, api.JOIN):
            nonce = os.urandom(auth.NONCE_BYTES)
            headers["Authorization"] = auth.sign_request(self._identity, line, now, nonce)
        return await self._open_session().request(
            method,
            url + path,
            data=body or None,
            headers=headers,
            ssl=check,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=limit, sock_connect=CONNECT_SECONDS),
        )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"meshnet/{__version__}"},
                trust_env=False,
                read_bufsize=256 * 1024,
            )
        return self._session

    # One of many coordinators

    async def _any(self, once: Callable[[str], Awaitable[T]]) -> T:
        """Return what the first coordinator to answer says."""
        faults: list[MeshnetError] = []
        for url in list(self._urls):
            try:
                if not self._checks[url].seen:
                    await self._hello(url)
                answer = await once(url)
            except (Unavailable, PinMismatch) as error:
                if not means_next(error):
                    raise
                faults.append(error)
                continue
            self._urls.remove(url)
            self._urls.insert(0, url)
            return answer
        raise worst(faults)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the lines of a body; Unavailable at its end, in silence and for a line too long."""
    url = str(response.url.origin())
    rest = bytearray()
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                data = await _guarded(url, response.content.readany())
        except TimeoutError as error:
            raise Unavailable(
                f"coordinator {url} said nothing for {SILENCE_SECONDS:.0f} s"
            ) from error
        if not data:
            raise Unavailable(f"coordinator {url} ended the stream")
        searched = len(rest)
        rest += data
        if b"\n" in rest[searched:]:
            *whole, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in whole:
                yield line
        if len(rest) > api.LINE_LIMIT:
            raise Unavailable(f"coordinator {url} sent a line of more than {api.LINE_LIMIT} bytes")


async def _guarded(url: str, work: Awaitable[T]) -> T:
    """Await, turning what can go wrong on the way into our errors."""
    try:
        return await work
    except aiohttp.ServerFingerprintMismatch as error:
        raise wrong_key(url) from error
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        raise unreachable(url, error) from error
