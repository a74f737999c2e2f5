"""Shell. The service for nodes: `wire.api` over HTTP, each handler one call.

What may fail fails here in one place: an error of ours becomes its status and a `Problem`, a fault
of HTTP (too large, no such path) likewise, and anything else is logged whole and told to nobody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest

from meshnet import __version__
from meshnet.coordinator.challenge import RANDOM_BYTES, StaleChallenge, ephemeral, make_challenge
from meshnet.coordinator.core import Core
from meshnet.coordinator.feed import Feed
from meshnet.coordinator.limits import Once
from meshnet.coordinator.members import Members
from meshnet.coordinator.networks import Networks
from meshnet.coordinator.publishing import Publishing
from meshnet.errors import BadInput, MeshnetError, NotAuthentic, Refused, Unavailable
from meshnet.model.statements import Membership
from meshnet.wire import api, auth, codec

log = logging.getLogger(__name__)
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

READ_SECONDS = 15.0
REQUESTS = Counter("meshnet_requests", "Requests by path and status", ["path", "status"])


class ClockOff(NotAuthentic):
    """A request signed at a time this coordinator's clock is far from."""


_AGAIN: dict[type[MeshnetError], str] = {ClockOff: api.CLOCK, StaleChallenge: api.CHALLENGE}


class Service:
    """The handlers."""

    def __init__(
        self,
        core: Core,
        members: Members,
        networks: Networks,
        publishing: Publishing,
        feed: Feed,
    ) -> None:
        self._core = core
        self._members = members
        self._networks = networks
        self._publishing = publishing
        self._feed = feed
        self._nonces = Once()
        self._started = time.monotonic()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=api.BODY_LIMIT, middlewares=[problems])
        app.router.add_get(api.HELLO, self.hello)
        app.router.add_post(api.JOIN, self.join)
        app.router.add_post(api.RENEW, self.renew)
        app.router.add_post(api.LEASES, self.lease)
        app.router.add_post(api.PUBLISH, self.publish)
        app.router.add_post(api.LEAVE, self.leave)
        app.router.add_post(api.NETWORKS, self.create_network)
        app.router.add_delete(api.NETWORKS + "/{name}", self.remove_network)
        app.router.add_post(api.NETWORKS + "/{name}/leave", self.leave_network)
        app.router.add_get(api.WATCH, self.watch, allow_head=False)
        app.router.add_get(api.HEALTH, health)
        app.router.add_get(api.METRICS, metrics)
        return app

    async def hello(self, _request: web.Request) -> web.Response:
        now = int(time.time())
        challenge = make_challenge(self._core.secret, now, os.urandom(RANDOM_BYTES))
        key = ephemeral(self._core.secret, challenge).public
        return answer(api.Hello(api.VERSION, __version__, challenge, key, now))

    async def join(self, request: web.Request) -> web.Response:
        asked = await read(request, api.JoinRequest)
        return answer(await self._members.join(asked, request.remote or ""))

    async def renew(self, request: web.Request) -> web.Response:
        member = await self._member(request, late=True)
        return answer(await self._members.renew(member, await read(request, api.RenewRequest)))

    async def leave(self, request: web.Request) -> web.Response:
        return answer(await self._members.leave(await self._member(request, late=True)))

    async def lease(self, request: web.Request) -> web.Response:
        member = await self._member(request)
        return answer(await self._networks.lease(member, await read(request, api.LeaseRequest)))

    async def publish(self, request: web.Request) -> web.Response:
        member = await self._member(request)
        asked = await read(request, api.PublishRequest)
        return answer(await self._publishing.publish(member, asked))

    async def create_network(self, request: web.Request) -> web.Response:
        member = await self._member(request)
        asked = await read(request, api.NetworkRequest)
        return answer(await self._networks.create(asked, f"node {member.name}"))

    async def remove_network(self, request: web.Request) -> web.Response:
        member = await self._member(request)
        name = request.match_info["name"]
        return answer(await self._networks.remove(name, f"node {member.name}"))

    async def leave_network(self, request: web.Request) -> web.Response:
        member = await self._member(request)
        return answer(await self._networks.leave(request.match_info["name"], member))

    async def watch(self, request: web.Request) -> web.StreamResponse:
        member = await self._member(request)
        text = request.query.get("revision", "")
        if text and not (text.isascii() and text.isdigit() and len(text) < 19):
            raise BadInput(f"{text[:40]!r} is not a revision")
        revision = int(text) if text else None
        return await self._feed.serve(request, member, revision, request.query.get("store", ""))

    # Who asks

    async def _member(self, request: web.Request, *, late: bool = False) -> Membership:
        """Return who signed this request; with `late` also one whose certificate has just ended."""
        credentials = auth.read_credentials(request.headers.get("Authorization", ""))
        body = await read_body(request)
        line = auth.RequestLine(request.method, request.raw_path, body, self._core.pin)
        now = time.time()
        member = self._core.world.member(credentials.identity, now)
        if member is None and late:
            member = self._core.world.former_member(credentials.identity, now)
        if member is None:
            raise Refused(
                f"{credentials.identity.node_id} is no member of this mesh",
                "Join with a new token.",
            )
        credentials.verify(line)
        self._check_fresh(credentials, now)
        return member

    def _check_fresh(self, credentials: auth.Credentials, now: float) -> None:
        """Refuse what is old, from before our memory of nonces began, or sent again.

        How long we remember is told by a clock that nobody sets: the other may have been ahead when
        we started.
        """
        remembered = min(auth.WINDOW_SECONDS, time.monotonic() - self._started)
        early = credentials.time < int(now - remembered)
        if early or credentials.time > now + auth.WINDOW_SECONDS:
            raise ClockOff("the request's time is not this coordinator's", "Set the clock.")
        key = credentials.identity.raw + credentials.nonce
        if not self._nonces.take(key, credentials.time + auth.WINDOW_SECONDS, now):
            raise NotAuthentic("the request was sent before")


async def health(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def metrics(_request: web.Request) -> web.Response:
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def read_body(request: web.Request) -> bytes:
    """Return the body; it must come in time and within the limit of the application."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await request.read()
    except TimeoutError as error:
        raise BadInput(f"the request's body did not come within {READ_SECONDS:.0f} s") from error


async def read(request: web.Request, kind: type[T]) -> T:
    """Return the body as a `kind`, else raise BadInput."""
    return codec.decode(await read_body(request), kind, "request")


def answer(value: msgspec.Struct | Sequence[msgspec.Struct]) -> web.Response:
    """Return a success that carries `value`."""
    return web.Response(body=codec.encode(value), content_type="application/json")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into answers, and count both."""
    try:
        response = await handler(request)
    except MeshnetError as error:
        code, status = api.form_of(error)
        code = _AGAIN.get(type(error), code)
        response = problem(status, code, error.message, error.hint)
    except web.HTTPRequestEntityTooLarge:
        message = f"the request is larger than {api.BODY_LIMIT} bytes"
        response = problem(413, api.TOO_LARGE, message)
    except web.HTTPException as error:
        response = problem(error.status, "http", error.reason)
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        fault = Unavailable("the coordinator failed at this request", "See its log.")
        response = problem(500, "internal", fault.message, fault.hint)
    resource = request.match_info.route.resource
    REQUESTS.labels(resource.canonical if resource else "other", response.status).inc()
    return response


def problem(status: int, code: str, message: str, hint: str = "") -> web.Response:
    """Return an error's answer."""
    body = codec.encode(api.Problem(code, message, hint, int(time.time())))
    return web.Response(status=status, body=body, content_type="application/json")
