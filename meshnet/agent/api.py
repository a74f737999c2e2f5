"""Shell. The agent's local API: `wire.local` over HTTP on a unix socket, for root and its group.

Each handler turns a request into one call and its result into one Struct; errors become
ErrorReply in one place. Whoever may open the socket may do all of it, so the socket's mode is the
access rule.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from aiohttp import web
from prometheus_client import generate_latest

from meshnet.agent import report
from meshnet.agent.cni import Cni
from meshnet.agent.desk import Desk
from meshnet.agent.netavark import Netavark
from meshnet.agent.node import MeshNode
from meshnet.errors import BadInput, Conflict, MeshnetError, NotFound
from meshnet.wire import local
from meshnet.wire.cni import PATH as CNI_PATH
from meshnet.wire.netavark import PATH as NETAVARK_PATH

log = logging.getLogger(__name__)
T = TypeVar("T")

GROUP = "meshnet"
LOOK_AGAIN = 2.0
"""Seconds between two looks whether the socket is still there."""
Handler = Callable[[web.Request], Awaitable[object]]


class Steward(Protocol):
    """What the API needs beyond the node and the desk; the agent's main provides it."""

    def status(self) -> local.Status: ...  # pragma: no cover

    async def dns(self, name: str, kind: str) -> local.DnsAnswer: ...  # pragma: no cover

    async def dns_host(self, mode: local.HostDnsMode) -> str: ...  # pragma: no cover

    async def create_network(self, request: local.NetworkRequest) -> None: ...  # pragma: no cover

    async def remove_network(self, name: str) -> None: ...  # pragma: no cover

    async def rotate_key(self, *, force: bool) -> local.KeyRotated: ...  # pragma: no cover

    async def down(self, *, purge: bool) -> None: ...  # pragma: no cover


class Api:
    """The handlers, by method and path."""

    def __init__(self, node: MeshNode, desk: Desk, steward: Steward) -> None:
        self._node = node
        self._desk = desk
        self._steward = steward
        self._cni = Cni(node, desk)
        self._netavark = Netavark(node, desk, steward.create_network)

    def routes(self) -> list[tuple[str, str, Handler]]:
        return [
            ("GET", "/v1/status", self.status),
            ("GET", "/v1/nodes", self.nodes),
            ("GET", "/v1/networks", self.networks),
            ("GET", "/v1/services", self.services),
            ("GET", "/v1/peers", self.peers),
            ("GET", "/v1/attachments", self.attachments),
            ("GET", "/v1/plan", self.plan),
            ("GET", "/v1/dns", self.dns),
            ("POST", "/v1/dns/host", self.dns_host),
            ("GET", "/v1/doctor", self.doctor),
            ("POST", "/v1/attach", self.attach),
            ("POST", "/v1/detach", self.detach),
            ("POST", "/v1/reserve", self.reserve),
            ("POST", "/v1/release", self.release),
            ("POST", "/v1/hold", self.hold),
            ("POST", "/v1/services", self.add_service),
            ("DELETE", "/v1/services/{network}/{service}", self.remove_service),
            ("POST", "/v1/networks", self.create_network),
            ("DELETE", "/v1/networks/{name}", self.remove_network),
            ("POST", "/v1/networks/{name}/leave", self.leave_network),
            ("POST", "/v1/key/rotate", self.rotate_key),
            ("POST", "/v1/reconcile", self.reconcile),
            ("POST", "/v1/down", self.down),
        ]

    async def status(self, request: web.Request) -> local.Status:
        return self._steward.status()

    async def nodes(self, request: web.Request) -> list[local.NodeInfo]:
        return report.nodes(self._node.scene())

    async def networks(self, request: web.Request) -> list[local.NetworkInfo]:
        return report.networks(self._node.scene())

    async def services(self, request: web.Request) -> list[local.ServiceInfo]:
        return report.services(self._node.scene())

    async def peers(self, request: web.Request) -> list[local.PeerInfo]:
        await self._node.look()
        return report.peers(self._node.scene())

    async def attachments(self, request: web.Request) -> list[local.AttachmentInfo]:
        return report.attachments(list(self._node.attachments))

    async def plan(self, request: web.Request) -> local.Plan:
        operations = await self._node.reconciler.preview()
        return local.Plan(operations=tuple(str(operation) for operation in operations))

    async def dns(self, request: web.Request) -> local.DnsAnswer:
        name = request.query.get("name", "")
        if not name or len(name) > 253:
            raise BadInput("a DNS query needs a name of at most 253 characters")
        return await self._steward.dns(name, request.query.get("type", "A").upper())

    async def dns_host(self, request: web.Request) -> local.Done:
        body = await _body(request, local.HostDnsRequest)
        asked = await self._steward.dns_host(body.mode)
        return local.Done(message=f"this host asks by {asked}" if asked else "this host asks not")

    async def doctor(self, request: web.Request) -> local.Diagnosis:
        words = [request.query.get(key, "")[:253] for key in ("a", "b")]
        if bool(words[0]) != bool(words[1]):
            raise BadInput("a doctor is asked about one node or about two ends, not about half")
        # Asked once in a while, and a tenth of all the agent would import.
        from meshnet.agent.doctor import Doctor

        return await Doctor(self._node, alive=True).examine(*words)

    async def attach(self, request: web.Request) -> local.Attached:
        return await self._desk.attach(await _body(request, local.AttachRequest))

    async def detach(self, request: web.Request) -> local.Done:
        body = await _body(request, local.DetachRequest)
        item = await self._desk.detach(body.network, body.name, owner=body.owner)
        return local.Done(message=f"detached {item.name} from network {item.network}")

    async def reserve(self, request: web.Request) -> local.Reserved:
        return await self._desk.reserve(await _body(request, local.ReserveRequest))

    async def release(self, request: web.Request) -> local.Done:
        body = await _body(request, local.ReleaseRequest)
        self._desk.release(body.network, body.address)
        return local.Done(message=f"{body.address} of {body.network} is free to be given")

    async def hold(self, request: web.Request) -> local.Done:
        body = await _body(request, local.HoldRequest)
        if self._node.holds.tell(body.holder, body.networks, time.monotonic()):
            self._node.changed()
        return local.Done(message=f"{len(body.networks)} networks are kept ready")

    async def add_service(self, request: web.Request) -> local.Done:
        body = await _body(request, local.ServiceRequest)
        item = self._desk.add_service(body)
        return local.Done(message=f"{item.name} is an instance of service {body.service}")

    async def remove_service(self, request: web.Request) -> local.Done:
        network, service = request.match_info["network"], request.match_info["service"]
        item = self._desk.remove_service(network, service, request.query.get("attachment", ""))
        return local.Done(message=f"{item.name} is no instance of service {service} any more")

    async def create_network(self, request: web.Request) -> local.NetworkInfo:
        body = await _body(request, local.NetworkRequest)
        await self._steward.create_network(body)
        made = [n for n in report.networks(self._node.scene()) if n.name == body.name]
        if not made:
            raise NotFound(f"network {body.name} was made but is not in the view yet")
        return made[0]

    async def remove_network(self, request: web.Request) -> local.Done:
        name = request.match_info["name"]
        used = [a.name for _, a in self._node.view.attachments(name)]
        if used:
            raise Conflict(
                f"network {name} has {len(used)} attachments, among them {used[0]}",
                "Detach them first.",
            )
        await self._steward.remove_network(name)
        return local.Done(message=f"removed network {name}")

    async def leave_network(self, request: web.Request) -> local.Done:
        name = request.match_info["name"]
        await self._desk.leave(name)
        return local.Done(message=f"this node has no lease of network {name}")

    async def rotate_key(self, request: web.Request) -> local.KeyRotated:
        body = await _body(request, local.KeyRotateRequest)
        return await self._steward.rotate_key(force=body.force)

    async def reconcile(self, request: web.Request) -> local.Reconciled:
        outcome = await self._node.reconciler.audit()
        return local.Reconciled(
            operations=tuple(str(operation) for operation in outcome.operations),
            failed=tuple(f"{op}: {error.message}" for op, error in outcome.failed),
            milliseconds=round(outcome.seconds * 1000, 3),
        )

    async def down(self, request: web.Request) -> local.Done:
        body = await _body(request, local.DownRequest)
        await self._steward.down(purge=body.purge)
        return local.Done(message="the agent stops and takes all of its own away")

    async def cni(self, request: web.Request) -> web.Response:
        """Answer a runtime in its own words, not in ours."""
        done, output = await self._cni.answer(await request.read())
        return web.Response(body=output, status=200 if done else 400)

    async def netavark(self, request: web.Request) -> web.Response:
        """Answer podman in its own words, not in ours."""
        done, output = await self._netavark.answer(await request.read())
        return web.Response(body=output, status=200 if done else 400)


async def _body(request: web.Request, kind: type[T]) -> T:
    return local.decode(await request.read(), kind, f"body of {request.path}")


def _answering(handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return _json(await handler(request), 200)
        except MeshnetError as error:
            return _json(local.error_reply(error), local.http_status(error))

    return answer


def _json(value: object, status: int) -> web.Response:
    return web.Response(body=local.encode(value), status=status, content_type="application/json")


async def _metrics(request: web.Request) -> web.StreamResponse:
    return web.Response(body=generate_latest(), content_type="text/plain")


@contextlib.asynccontextmanager
async def serving(api: Api, path: Path) -> AsyncIterator[None]:
    """Serve on a unix socket meanwhile, and again where somebody removes it."""
    app = web.Application(client_max_size=local.BODY_LIMIT)
    for method, pattern, handler in api.routes():
        app.router.add_route(method, pattern, _answering(handler))
    app.router.add_post(CNI_PATH, api.cni)
    app.router.add_post(NETAVARK_PATH, api.netavark)
    app.router.add_get("/metrics", _metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, _listen(path)).start()
    keeper = asyncio.create_task(_keep(runner, path), name="agent socket")
    try:
        yield
    finally:
        keeper.cancel()
        await runner.cleanup()


async def _keep(runner: web.AppRunner, path: Path) -> None:
    while True:
        await asyncio.sleep(LOOK_AGAIN)
        with contextlib.suppress(OSError):
            sock = _listen_again(path)
            if sock is not None:
                for site in list(runner.sites):
                    await site.stop()
                await web.SockSite(runner, sock).start()
                log.warning("%s was removed by another program: serving there again", path)


def _listen_again(path: Path) -> socket.socket | None:
    return None if path.exists() else _listen(path)


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(umask)
    with contextlib.suppress(KeyError):
        os.chown(path, 0, grp.getgrnam(GROUP).gr_gid)
        path.chmod(0o660)
    return sock
