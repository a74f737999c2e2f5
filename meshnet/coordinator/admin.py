"""Shell. The administrator's service: `admin_api` on a unix socket, for root of this machine.

The socket's mode keeps others out, and the kernel's word on who opened it is asked besides, since a
directory can be more open than it should be.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import time

from aiohttp import web

from meshnet import __version__
from meshnet.coordinator import admin_api, http
from meshnet.coordinator.admin_api import Done, NetworkInfo, NodeInfo, Status, TokenRequest
from meshnet.coordinator.config import Config
from meshnet.coordinator.core import Core
from meshnet.coordinator.feed import Feed
from meshnet.coordinator.http import Handler, answer, read
from meshnet.coordinator.members import Members
from meshnet.coordinator.networks import Networks
from meshnet.coordinator.records import Records
from meshnet.coordinator.store import NodeRow
from meshnet.coordinator.tokens import Tokens
from meshnet.errors import Refused
from meshnet.model.addresses import node_address6
from meshnet.model.facts import Slot
from meshnet.model.records import NodeRecord
from meshnet.model.statements import Issuer, StaticRecord
from meshnet.wire.api import NetworkRequest

log = logging.getLogger(__name__)

_PEER = struct.Struct("3i")


class Admin:
    """The handlers."""

    def __init__(
        self,
        config: Config,
        core: Core,
        tokens: Tokens,
        members: Members,
        networks: Networks,
        records: Records,
        feed: Feed,
    ) -> None:
        self._config = config
        self._core = core
        self._tokens = tokens
        self._members = members
        self._networks = networks
        self._records = records
        self._feed = feed
        self._started = int(time.time())

    def application(self) -> web.Application:
        app = web.Application(middlewares=[http.problems, only_root])
        app.router.add_post(admin_api.TOKENS, self.create_token)
        app.router.add_get(admin_api.TOKENS, self.list_tokens)
        app.router.add_delete(admin_api.TOKENS + "/{id}", self.revoke_token)
        app.router.add_get(admin_api.NODES, self.list_nodes)
        app.router.add_delete(admin_api.NODES + "/{name}", self.revoke_node)
        app.router.add_get(admin_api.NETWORKS, self.list_networks)
        app.router.add_post(admin_api.NETWORKS, self.create_network)
        app.router.add_delete(admin_api.NETWORKS + "/{name}", self.remove_network)
        app.router.add_get(admin_api.RECORDS, self.list_records)
        app.router.add_post(admin_api.RECORDS, self.set_record)
        app.router.add_delete(admin_api.RECORDS + "/{name}/{type}", self.remove_record)
        app.router.add_get(admin_api.STATUS, self.status)
        app.router.add_get(admin_api.METRICS, http.metrics)
        return app

    # Tokens

    async def create_token(self, request: web.Request) -> web.Response:
        return answer(await self._tokens.create(await read(request, TokenRequest)))

    async def list_tokens(self, _request: web.Request) -> web.Response:
        return answer(await self._tokens.list())

    async def revoke_token(self, request: web.Request) -> web.Response:
        await self._tokens.revoke(request.match_info["id"])
        return answer(Done())

    # Nodes

    async def list_nodes(self, _request: web.Request) -> web.Response:
        rows = await self._core.committer.do(lambda batch: batch.tx.nodes())
        return answer([self._node(row, int(time.time())) for row in rows])

    def _node(self, row: NodeRow, now: int) -> NodeInfo:
        member = self._core.world.member(row.identity, now)
        fact = self._core.world.facts.get(Slot(row.identity, NodeRecord.KIND, "node"))
        record = fact.body if fact and isinstance(fact.body, NodeRecord) else None
        return NodeInfo(
            id=row.id,
            name=row.name,
            state=self._state(row, now),
            address4=row.address4,
            address6=node_address6(self._core.mesh(now).prefix6, row.id),
            joined=row.joined,
            not_after=row.not_after,
            token=row.token,
            tags=member.tags if member else (),
            version=record.version if record else "",
        )

    def _state(self, row: NodeRow, now: int) -> str:
        if row.revoked:
            revoked = self._core.world.statements(now).revoked
            return "revoked" if row.identity in revoked else "left"
        if row.not_after <= now:
            return "expired"
        return "watching" if row.id in self._feed.nodes else "silent"

    async def revoke_node(self, request: web.Request) -> web.Response:
        granted = await self._members.revoke(request.match_info["name"])
        return answer(Done(granted.revision))

    # Networks

    async def list_networks(self, _request: web.Request) -> web.Response:
        networks = self._core.world.statements(time.time()).networks
        return answer([self._network(name) for name in sorted(networks)])

    def _network(self, name: str) -> NetworkInfo:
        now = time.time()
        statements = self._core.world.statements(now)
        network = statements.networks[name]
        leases = [x for held in statements.leases.values() for x in held if x.network == name]
        attached = self._core.world.attached(name, now, hosts=True)
        return NetworkInfo(
            name, network.vni, network.prefixes, network.flood, len(leases), len(attached)
        )

    async def create_network(self, request: web.Request) -> web.Response:
        asked = await read(request, NetworkRequest)
        await self._networks.create(asked, "an administrator")
        return answer(self._network(asked.name))

    async def remove_network(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        granted = await self._networks.remove(name, "an administrator")
        return answer(Done(granted.revision))

    # DNS records

    async def list_records(self, _request: web.Request) -> web.Response:
        return answer(list(self._core.world.statements(time.time()).static))

    async def set_record(self, request: web.Request) -> web.Response:
        return answer(Done(await self._records.set(await read(request, StaticRecord))))

    async def remove_record(self, request: web.Request) -> web.Response:
        name, kind = request.match_info["name"], request.match_info["type"]
        return answer(Done(await self._records.remove(name, kind)))

    # Status

    async def status(self, _request: web.Request) -> web.Response:
        world, now = self._core.world, time.time()
        statements = world.statements(now)
        ends = [f.body.not_after for f in world.facts.of(world.root) if isinstance(f.body, Issuer)]
        return answer(
            Status(
                version=__version__,
                store=world.store,
                revision=world.revision,
                urls=self._config.urls,
                pin=self._core.pin,
                root=world.root,
                started=self._started,
                nodes=len(statements.memberships),
                watching=len(self._feed.nodes),
                networks=len(statements.networks),
                facts=len(world.facts),
                issuer_not_after=max(ends, default=0),
            )
        )


@web.middleware
async def only_root(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let root and the coordinator's own user through."""
    uid = peer_uid(request)
    if uid not in (0, os.geteuid()):
        log.warning("user %d was refused at the admin socket", uid)
        raise Refused("only root may administer the coordinator")
    return await handler(request)


def peer_uid(request: web.Request) -> int:
    """Return the user at the other end of a unix socket (unix(7), SO_PEERCRED)."""
    sock = request.get_extra_info("socket")
    if sock is None:
        raise Refused("the connection has ended")
    _pid, uid, _gid = _PEER.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    )
    return int(uid)
