"""Shell. What Docker has, told to the agent; what it has ended and not told us, taken away.

    every SWEEP    POST agent /v1/hold       the networks that Docker has: kept ready
                   GET  /networks            those it has no longer are given up
                   GET  /networks/ID         attachments whose endpoints are gone are detached

dockerd tells its driver of an end once, or not at all when it is killed. What is missing at two
looks in a row has ended: what is being made is missing at one. A network that comes back, with an
older directory of Docker's perhaps, is learnt anew when it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from meshnet.containers import docker_protocol as protocol
from meshnet.containers.docker_engine import Engine
from meshnet.containers.docker_networks import Networks
from meshnet.errors import MeshnetError, NotFound
from meshnet.local.agent import Agent
from meshnet.wire.local import AttachmentInfo, DetachRequest, Done, HoldRequest

log = logging.getLogger(__name__)

HOLDER = "docker"


def hold(agent: Agent, networks: Networks) -> None:
    """Have the agent keep Docker's networks ready for their first containers."""
    try:
        request = HoldRequest(holder=HOLDER, networks=networks.of_mesh())
        agent.post("/v1/hold", request, Done)
    except MeshnetError as error:
        log.debug("networks are not kept ready: %s", error.message)


def detach(agent: Agent, owner: str) -> None:
    """Take an attachment away; one that is gone is fine."""
    try:
        agent.post("/v1/detach", DetachRequest(owner=owner), Done)
    except NotFound:
        return


class Sweep:
    """Compares. `give_up` is called with the id of a network that has ended."""

    def __init__(
        self, agent: Agent, engine: Engine, networks: Networks, give_up: Callable[[str], None]
    ) -> None:
        self._agent = agent
        self._engine = engine
        self._networks = networks
        self._give_up = give_up
        self._suspects: set[str] = set()

    def step(self) -> None:
        """Look once; end what is missing for the second time."""
        hold(self._agent, self._networks)
        try:
            networks, owners = self._gone(), self._orphans()
            for owner in sorted(owners & self._suspects):
                log.warning("%s is gone: detached", owner)
                detach(self._agent, owner)
            for network in sorted(networks & self._suspects):
                log.warning("Docker has no network %s any more", network[:12])
                self._give_up(network)
        except MeshnetError as error:
            log.debug("what Docker has was not compared: %s", error.message)
            self._suspects = set()
            return
        self._suspects = (networks | owners) - self._suspects

    def _gone(self) -> set[str]:
        """Return the networks that Docker has no longer."""
        known = self._networks.ids()
        return known - self._engine.networks(protocol.DRIVER).keys() if known else set()

    def _orphans(self) -> set[str]:
        """Return the owners of attachments whose endpoints Docker has no longer."""
        attached = self._agent.get("/v1/attachments", list[AttachmentInfo])
        keys = [item.owner.split("/") for item in attached if item.owner.startswith("docker/")]
        there = {network: self._engine.endpoints(network) for _, network, _ in keys}
        return {
            protocol.owner(network, endpoint)
            for _, network, endpoint in keys
            if endpoint not in there[network]
        }
