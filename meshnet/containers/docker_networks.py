"""Shell. Docker's networks of our driver: what is remembered of each, and the plain made anew.

`docker network create -d meshnet appnet` names no IPAM driver, so Docker's own has given the
network a subnet before the driver hears of it, and would give its addresses: the same ones on every
host. A driver may refuse an address, never change it (libnetwork: "Cannot be modified"), nor is it
told the network's name. So such a network is taken, and made anew the moment Docker has stored it:

    CreateNetwork ──▶ {}                                    docker prints an id and returns
    GET    /networks/ID      name, options, labels          a few milliseconds later
    POST   agent /v1/networks                               on the mesh, if there is none
    DELETE /networks/ID
    POST   /networks/create  the same, IPAM driver meshnet, the mesh's own prefixes

What is to be made is on disk before anything is removed. The price: the id that was printed is not
the network's. Whoever keeps ids, and not names, names the IPAM driver himself. And a container that
starts in between is refused, so nothing here waits for what could be known before: Docker stores
the network some milliseconds before it tells whoever asked for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from meshnet.agent.storage import write_atomically
from meshnet.containers import docker_protocol as protocol
from meshnet.containers.docker_engine import Engine
from meshnet.errors import BadInput, Conflict, MeshnetError, NotFound, Unavailable
from meshnet.local.agent import Agent
from meshnet.wire.local import NetworkInfo, NetworkRequest

log = logging.getLogger(__name__)

EAGER, PATIENT = 0.002, 5.0
"""Seconds between two tries to make a plain network anew: at first, and when it did not go."""

EAGER_TRIES = 2000
VISIBLE, LOOK = 5.0, 0.01
"""Seconds for a network that somebody else makes at the same time to come into view, and between
two looks."""


class Known(msgspec.Struct, frozen=True):
    """What is remembered of one of Docker's networks.

    `network` is '' while it is plain. Then `spec` is what Docker is told to make in its place,
    None until that is known, and `why` what is in the way.
    """

    network: str
    internal: bool = False
    spec: dict[str, Any] | None = None
    why: str = ""


class Networks:
    """Docker's networks by id, kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._known = msgspec.json.decode(path.read_bytes(), type=dict[str, Known])
        except FileNotFoundError:
            self._known = {}
        except msgspec.DecodeError as error:
            raise BadInput(
                f"{path} is damaged: {error}", "Remove it and Docker's networks."
            ) from error

    def __contains__(self, network_id: str) -> bool:
        return network_id in self._known

    def get(self, network_id: str) -> Known:
        """Return what is known of a network; NotFound for one that Docker never told of."""
        try:
            return self._known[network_id]
        except KeyError:
            raise NotFound(
                f"Docker's network {network_id[:12]} is not known to meshnet",
                "Remove it and make it again.",
            ) from None

    def on_mesh(self, network_id: str) -> Known:
        """Return what is known of a network; Unavailable while it is plain."""
        known = self.get(network_id)
        if not known.network:
            making = "the network is being made on the mesh this moment: try again"
            raise Unavailable(known.why or making)
        return known

    def ids(self) -> set[str]:
        """Return the ids of those that are on the mesh."""
        return {key for key, known in self._known.items() if known.network}

    def of_mesh(self) -> tuple[str, ...]:
        """Return the networks of the mesh that Docker has, sorted."""
        return tuple(sorted({known.network for known in self._known.values()} - {""}))

    def uses(self, network: str) -> bool:
        """Say whether one of Docker's networks is this one of the mesh."""
        return bool(self.of(network))

    def of(self, network: str) -> list[str]:
        """Return the ids of those that are this network of the mesh."""
        return sorted(key for key, known in self._known.items() if known.network == network)

    def plain(self) -> list[str]:
        """Return the ids of those that are to be made anew."""
        return sorted(key for key, known in self._known.items() if not known.network)

    def put(self, network_id: str, known: Known) -> None:
        with self._lock:
            self._save({**self._known, network_id: known})

    def remove(
        self, network_id: str, only: Callable[[Known], bool] = lambda known: True
    ) -> Known | None:
        """Forget a network, unless it is not one that `only` is true of; return what was known."""
        with self._lock:
            known = self._known.get(network_id)
            if known is None or not only(known):
                return None
            self._save({key: value for key, value in self._known.items() if key != network_id})
            return known

    def _save(self, known: dict[str, Known]) -> None:
        write_atomically(self._path, msgspec.json.encode(known))
        self._known = known


def mesh_network(agent: Agent, name: str, prefixes: tuple[str, ...] = ()) -> NetworkInfo:
    """Return a network of the mesh; it is made when there is none, and ends with its last user."""
    if found := _of_mesh(agent, name):
        return found
    last = time.monotonic() + VISIBLE
    request = NetworkRequest(name=name, prefixes=prefixes, transient=True)
    try:
        return agent.post("/v1/networks", request, NetworkInfo)
    except (Conflict, NotFound):
        # Another host was first, and the view has not heard of it.
        while time.monotonic() < last:
            if found := _of_mesh(agent, name):
                return found
            time.sleep(LOOK)
        raise


def _of_mesh(agent: Agent, name: str) -> NetworkInfo | None:
    """Return a network of the mesh, None when this node knows of none."""
    networks = agent.get("/v1/networks", list[NetworkInfo])
    return next((network for network in networks if network.name == name), None)


class Remaker:
    """Makes plain networks anew, in a thread of its own."""

    def __init__(self, agent: Agent, engine: Engine, networks: Networks) -> None:
        self._agent = agent
        self._engine = engine
        self._networks = networks
        self._wake = threading.Event()
        self._pools: list[protocol.AddressPool] = []

    def dockerd_came(self) -> None:
        """Forget what only a dockerd that starts anew can have changed."""
        self._pools = []

    def hurry(self) -> None:
        """Look now: a plain network has come."""
        self._wake.set()

    def run(self) -> None:
        """Work for ever."""
        while True:
            self._wake.clear()
            self._ask_for_pools()
            tries = 0
            while self._round() and tries < EAGER_TRIES:
                time.sleep(EAGER)
                tries += 1
            for network_id in self._networks.plain() if tries == EAGER_TRIES else ():
                # Docker undid what it had not stored, and did not say so.
                self._networks.remove(network_id, lambda known: not known.spec and not known.why)
            self._wake.wait(PATIENT if self._networks.plain() else None)

    def _ask_for_pools(self) -> None:
        """Learn where Docker takes its subnets from, once: it takes longer than all the rest."""
        try:
            self._pools = self._pools or self._engine.pools()
        except MeshnetError as error:
            log.debug("Docker does not name its address pools: %s", error.message)

    def _round(self) -> bool:
        """Try each plain network once; say whether Docker has yet to store one of them."""
        early = False
        for network_id in self._networks.plain():
            try:
                early = not self._remake(network_id) or early
            except MeshnetError as error:
                self._note(network_id, error)
        return early

    def _remake(self, network_id: str) -> bool:
        """Make one anew; False while Docker has not stored it."""
        known = self._networks.get(network_id)
        spec = known.spec
        if spec is None:
            try:
                state = self._engine.network(network_id)
            except NotFound:
                return False
            spec = self._spec(state)
            self._networks.put(network_id, Known("", spec=spec))
        try:
            self._engine.remove_network(network_id)
        except NotFound:
            log.debug("network %s is removed already", network_id[:12])
        try:
            self._engine.create_network(spec)
            log.info("network %s is on the mesh now", spec["Name"])
        except Conflict:
            log.info("network %s is there already", spec["Name"])
        self._networks.remove(network_id)
        return True

    def _spec(self, state: protocol.NetworkState) -> dict[str, Any]:
        name = protocol.mesh_name(state)
        if twin := self._twin(state, name):
            raise BadInput(
                f"Docker's networks {twin} and {state.name} would both be network {name} of the"
                " mesh",
                f"Remove the network and give it another name, or have it be the same network with"
                f" -o {protocol.NETWORK_OPTION}={name}.",
            )
        self._pools = self._pools or self._engine.pools()
        chosen = protocol.chosen_prefixes(state, self._pools)
        network = mesh_network(self._agent, name, chosen)
        if absent := [prefix for prefix in chosen if prefix not in network.prefixes]:
            raise BadInput(
                f"network {name} of the mesh has the prefixes {', '.join(network.prefixes)}, "
                f"not {', '.join(absent)}",
                "Remove the network and make it with one of them, or without --subnet.",
            )
        return protocol.remade(state, network)

    def _twin(self, state: protocol.NetworkState, name: str) -> str:
        """Return the name of another network here that is the same one of the mesh only because
        names of the mesh tell less apart; '' for none, or where that is asked for."""
        if (state.options or {}).get(protocol.NETWORK_OPTION):
            return ""
        for other in self._networks.of(name):
            try:
                known = self._engine.network(other).name
            except NotFound:
                continue
            if known != state.name and protocol.label_of(known) == name:
                return known
        return ""

    def _note(self, network_id: str, error: MeshnetError) -> None:
        known, why = self._networks.get(network_id), error.whole
        if known.why != why:
            log.warning("network %s is not on the mesh: %s", network_id[:12], why)
            self._networks.put(network_id, msgspec.structs.replace(known, why=why))
