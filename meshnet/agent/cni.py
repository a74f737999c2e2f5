"""Shell. CNI, carried out: the calls that `meshnet-cni` hands over as it got them.

Context: a runtime starts the plugin for every container, and the reference plugins start in a few
milliseconds. An interpreter that only carries bytes takes ten, one that can check a configuration
seventy. Choice: all understanding is here, in a process that runs already. Price: without an agent
the plugin has to find out by itself what to answer, slowly (`containers/cni_alone.py`).

What an attachment is lives in the agent alone. A plugin killed anywhere leaves nothing behind, and
DEL finds all by the owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from meshnet.agent.desk import Desk
from meshnet.agent.node import MeshNode
from meshnet.errors import NotFound
from meshnet.wire import cni
from meshnet.wire.cni import Call, CniError

Reply = dict[str, Any] | None


class Cni:
    """Answers the calls of the plugin."""

    def __init__(self, node: MeshNode, desk: Desk) -> None:
        self._node = node
        self._desk = desk
        self._acts: dict[str, Callable[[Call], Awaitable[Reply]]] = {
            "ADD": self._add,
            "DEL": self._del,
            "CHECK": self._check,
            "GC": self._gc,
            "STATUS": self._status,
            "VERSION": self._version,
        }

    async def answer(self, body: bytes) -> tuple[bool, bytes]:
        """Carry out a call, whatever it holds; return whether it went well, and what to print."""
        command, version = "", cni.VERSIONS[-1]
        try:
            environment, data = cni.unpack(body)
            command = environment.get("CNI_COMMAND", "")
            call = cni.read_call(environment, data)
            version = call.config.cni_version
            return True, cni.reply(await self._acts[command](call))
        except Exception as error:  # A runtime reads nothing but an error of the specification.
            return False, cni.failure(error, command, version)

    async def _add(self, call: Call) -> Reply:
        request = cni.attach_request(call)
        try:
            self._node.machine.namespace_inode(call.netns)
        except NotFound as error:
            raise CniError(cni.CONTAINER_UNKNOWN, error.message, error.hint) from error
        return cni.result(call, await self._desk.attach(request))

    async def _del(self, call: Call) -> Reply:
        await self._detach(call.owner)
        return None

    async def _detach(self, owner: str) -> None:
        try:
            await self._desk.detach(owner=owner)
        except NotFound:
            return

    async def _check(self, call: Call) -> Reply:
        try:
            given = await self._desk.check(call.owner)
        except NotFound as error:
            raise CniError(cni.CONTAINER_UNKNOWN, error.message, error.hint) from error
        cni.check_previous(call, given)
        return None

    async def _gc(self, call: Call) -> Reply:
        owners = [item.owner for item in self._node.attachments]
        gone = (self._detach(owner) for owner in cni.unlisted(call, owners))
        for outcome in await asyncio.gather(*gone, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return None

    async def _status(self, call: Call) -> Reply:
        if self._node.me is None:
            # Containers that are there reach nobody else now.
            why = "this node is no member of the mesh"
            raise CniError(cni.LIMITED, why, "See meshnet status.")
        await self._desk.make_ready(call.config.network)
        return None

    async def _version(self, call: Call) -> Reply:
        return cni.versions(call)
