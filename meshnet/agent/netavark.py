"""Shell. podman's netavark, carried out: the calls that `meshnet-netavark` hands over.

As with CNI (`agent/cni.py`), all understanding is here and the plugin carries bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from meshnet import __version__
from meshnet.agent import report
from meshnet.agent.desk import Desk
from meshnet.agent.node import MeshNode
from meshnet.errors import NotFound
from meshnet.wire import netavark
from meshnet.wire.local import NetworkInfo, NetworkRequest
from meshnet.wire.netavark import Call

Reply = dict[str, Any] | None


class Netavark:
    """Answers the calls of the plugin. `make` has a coordinator make a network."""

    def __init__(
        self, node: MeshNode, desk: Desk, make: Callable[[NetworkRequest], Awaitable[None]]
    ) -> None:
        self._node = node
        self._desk = desk
        self._make = make
        self._acts: dict[str, Callable[[Call], Awaitable[Reply]]] = {
            "create": self._create,
            "setup": self._setup,
            "teardown": self._teardown,
            "info": self._info,
        }

    async def answer(self, body: bytes) -> tuple[bool, bytes]:
        """Carry out a call, whatever it holds; return whether it went well, and what to print."""
        try:
            call = netavark.read_call(*netavark.unpack(body))
            return True, netavark.reply(await self._acts[call.command](call))
        except Exception as error:  # netavark reads nothing but an error of its own form.
            return False, netavark.failure(error)

    async def _create(self, call: Call) -> Reply:
        name, prefixes = netavark.network_of(call)
        if name not in self._node.view.networks:
            await self._make(NetworkRequest(name=name, prefixes=prefixes))
        return netavark.created(call, self._network(name))

    def _network(self, name: str) -> NetworkInfo:
        networks = report.networks(self._node.scene())
        found = [network for network in networks if network.name == name]
        if not found:
            raise NotFound(f"network {name} was made but is not in the view yet", "Try again.")
        return found[0]

    async def _setup(self, call: Call) -> Reply:
        assert call.container is not None
        return netavark.result(
            await self._desk.attach(netavark.attach_request(call, call.container))
        )

    async def _teardown(self, call: Call) -> Reply:
        assert call.container is not None
        try:
            await self._desk.detach(owner=netavark.owner(call.container))
        except NotFound:
            return None
        return None

    async def _info(self, call: Call) -> Reply:
        return netavark.info(__version__)
