"""Face. `meshnet-docker`: Docker's network and IPAM driver `meshnet`, a process beside the agent.

    dockerd ── plugins/meshnet.sock ── meshnet-docker ── agent.sock ── agent
       └────── docker.sock ◀── which container is it? ──┘

A process of its own, started by its socket: dockerd waits 15 seconds and more for a plugin that is
not there, and an agent that restarts or is down must not make it wait. Without an agent a call
fails at once with the reason.

It remembers little. Which network of the mesh each of Docker's is, on disk, since Docker says so
once; the addresses of an endpoint, from CreateEndpoint to the Join that follows; and what is to be
detached when there is an agent again. What dockerd ended without telling us, `docker_sweep` finds.
While dockerd starts it does not say whose an endpoint is: the agent follows its events, and gives
such an attachment its names, as it does with aliases.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NoReturn

from meshnet.containers import docker_protocol as protocol
from meshnet.containers.docker_engine import Container, Engine
from meshnet.containers.docker_http import Answer, Server, listener
from meshnet.containers.docker_networks import (
    LOOK,
    VISIBLE,
    Known,
    Networks,
    Remaker,
    mesh_network,
)
from meshnet.containers.docker_protocol import Message, Pool
from meshnet.containers.docker_sweep import Sweep, detach, hold
from meshnet.errors import BadInput, Conflict, MeshnetError, NotFound, Unavailable
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.wire.local import (
    Attached,
    AttachmentInfo,
    Done,
    NetworkInfo,
    ReleaseRequest,
    Reserved,
    ReserveRequest,
)

log = logging.getLogger(__name__)

ENGINE = Path("/run/docker.sock")
STATE = "docker.json"
SWEEP = 10.0
"""Seconds between two comparisons of our attachments with Docker's endpoints."""
HURRY = 1.0
"""Seconds between two tries to reach an agent that was not there."""


class Driver:
    """The calls of both drivers. Each takes a message and returns the answer, or raises."""

    def __init__(self, agent: Agent, engine: Engine, networks: Networks, remaker: Remaker) -> None:
        self._agent = agent
        self._engine = engine
        self._networks = networks
        self._remaker = remaker
        self._endpoints: dict[str, tuple[str, ...]] = {}
        self._macs: dict[tuple[str, str], str] = {}
        self._detached: set[str] = set()
        self._left: set[str] = set()
        self._first: dict[str, str] = {}
        self.hurry = threading.Event()
        self.calls: dict[str, Callable[[Message], Answer]] = {
            "Plugin.Activate": self.activate,
            "NetworkDriver.GetCapabilities": lambda _: protocol.NETWORK_CAPABILITIES,
            "IpamDriver.GetCapabilities": lambda _: protocol.IPAM_CAPABILITIES,
            "IpamDriver.GetDefaultAddressSpaces": lambda _: protocol.SPACES,
            "IpamDriver.RequestPool": self.request_pool,
            "IpamDriver.ReleasePool": lambda _: {},
            "IpamDriver.RequestAddress": self.request_address,
            "IpamDriver.ReleaseAddress": self.release_address,
            "NetworkDriver.CreateNetwork": self.create_network,
            "NetworkDriver.DeleteNetwork": self.delete_network,
            "NetworkDriver.CreateEndpoint": self.create_endpoint,
            "NetworkDriver.EndpointOperInfo": lambda _: {"Value": {}},
            "NetworkDriver.Join": self.join,
            "NetworkDriver.Leave": self.leave,
            "NetworkDriver.DeleteEndpoint": self.delete_endpoint,
            "NetworkDriver.DiscoverNew": lambda _: {},
            "NetworkDriver.DiscoverDelete": lambda _: {},
        }

    def activate(self, _message: Message) -> Answer:
        self._remaker.dockerd_came()
        return protocol.ACTIVATE

    def _mesh_networks(self) -> list[NetworkInfo]:
        return self._agent.get("/v1/networks", list[NetworkInfo])

    def request_pool(self, message: Message) -> Answer:
        name = protocol.wanted_network(message)
        try:
            return protocol.pool_of(message, self._mesh_networks()).answer()
        except NotFound:
            if not name:
                raise
            prefixes = (message.pool,) if message.pool else ()
            mesh_network(self._agent, name, prefixes)
            return protocol.pool_of(message, self._mesh_networks()).answer()
        except Unavailable:
            # dockerd starts and tells again what it had; nothing is given out by this.
            if not name or not message.pool:
                raise
            return Pool(name, protocol.parse_prefix(message.pool)).answer()

    def request_address(self, message: Message) -> Answer:
        pool = Pool.parse(message.pool_id)
        if protocol.is_gateway(message):
            answer = pool.gateway_answer()
            if message.address and answer["Address"].partition("/")[0] != message.address:
                raise BadInput(f"the gateway of network {pool.network} is {answer['Address']}")
            return answer
        family: Literal[4, 6] = 6 if pool.prefix.version == 6 else 4
        asked = ReserveRequest(
            network=pool.network, family=family, address=message.address.partition("/")[0]
        )
        try:
            reserved = self._reserve(pool, asked)
        except Conflict:
            # dockerd has started and names the addresses of containers that have run on.
            if asked.address not in self._attached(pool.network):
                raise
            reserved = Reserved(address=f"{asked.address}/{pool.prefix.prefixlen}", mac="")
        self._macs[pool.network, reserved.address.partition("/")[0]] = reserved.mac
        return {"Address": reserved.address, "Data": {}}

    def _reserve(self, pool: Pool, asked: ReserveRequest) -> Reserved:
        """Keep an address; a network that has ended with its last user elsewhere is made again."""
        last = time.monotonic() + VISIBLE
        while True:
            try:
                return self._agent.post("/v1/reserve", asked, Reserved)
            except NotFound:
                if time.monotonic() > last:
                    raise
                mesh_network(self._agent, pool.network, (str(pool.prefix),))
                time.sleep(LOOK)

    def _attached(self, network: str) -> set[str]:
        attached = self._agent.get("/v1/attachments", list[AttachmentInfo])
        ours = (item for item in attached if item.owner.startswith("docker/"))
        return {address for item in ours if item.network == network for address in item.addresses}

    def release_address(self, message: Message) -> Answer:
        network, address = Pool.parse(message.pool_id).network, message.address.partition("/")[0]
        self._macs.pop((network, address), None)
        released = ReleaseRequest(network=network, address=address)
        self._agent.post("/v1/release", released, Done)
        return {}

    def create_network(self, message: Message) -> Answer:
        networks = self._mesh_networks()
        if protocol.is_plain(message):
            self._networks.put(message.network_id, Known(""))
            self._remaker.hurry()
            return {}
        network = protocol.mesh_network(message, networks)
        internal = bool((message.options or {}).get(protocol.INTERNAL))
        self._networks.put(message.network_id, Known(network, internal))
        hold(self._agent, self._networks)
        return {}

    def delete_network(self, message: Message) -> Answer:
        self.give_up(message.network_id)
        return {}

    def give_up(self, network_id: str) -> None:
        """Forget a network that Docker has no longer; it ends here when no other of Docker's is
        the same of the mesh."""
        known = self._networks.remove(network_id, lambda known: known.spec is None)
        if known is not None and known.network and not self._networks.uses(known.network):
            hold(self._agent, self._networks)
            self._leave_network(known.network)

    def _leave_network(self, network: str) -> None:
        """Give back this host's leases: the network ends with the last host that used it."""
        try:
            self._agent.post(f"/v1/networks/{network}/leave", {}, Done)
        except MeshnetError as error:
            log.info("leases of network %s stay: %s", network, error.message)

    def create_endpoint(self, message: Message) -> Answer:
        network = self._known(message.network_id).network
        interface = message.interface or {}
        texts = (interface.get("Address", ""), interface.get("AddressIPv6", ""))
        addresses = tuple(text.partition("/")[0] for text in texts if text)
        if not addresses:
            raise BadInput("the endpoint has no address", protocol.HOW)
        mac = self._macs.pop((network, addresses[0]), "") or self._mac(network, addresses[0])
        asked = interface.get("MacAddress", "")
        if asked and asked.lower() != mac:
            raise BadInput("a MAC cannot be chosen: it follows from the address", "Omit it.")
        self._endpoints[message.endpoint_id] = addresses
        return {"Interface": {} if asked else {"MacAddress": mac}}

    def _mac(self, network: str, address: str) -> str:
        """Return the MAC of an address that was given before this process began, and keep it."""
        kept = ReserveRequest(network=network, address=address)
        return self._agent.post("/v1/reserve", kept, Reserved).mac

    def _known(self, network_id: str) -> Known:
        """Return what is known of a network. Docker says it of one that was told to a driver before
        us: to that of a node that has left, and joined again."""
        if network_id not in self._networks:
            state = self._engine.network(network_id)
            self._networks.put(network_id, Known(protocol.told_network(state), state.internal))
            self._remaker.hurry()
        return self._networks.on_mesh(network_id)

    def join(self, message: Message) -> Answer:
        known = self._known(message.network_id)
        addresses = self._endpoints.get(message.endpoint_id)
        if addresses is None:
            raise NotFound(f"endpoint {message.endpoint_id[:12]} is not known", "Try again.")
        try:
            name, container = self._who(message.network_id, message.endpoint_id)
        except Unavailable:
            name, container = "", Container()
        labels = container.labels or {}
        request = protocol.attach_request(known.network, message, addresses, name, labels)
        given = self._agent.post("/v1/attach", request, Attached)
        first = self._is_first(message, container)
        return protocol.join_answer(given.interface, internal=known.internal, first=first)

    def _is_first(self, message: Message, container: Container) -> bool:
        """Say whether no other of our networks can be in this sandbox; then this one is the first.

        What was joined before this process began is known from Docker only.
        """
        others = [port for port in container.ports if port.endpoint_id != message.endpoint_id]
        if any(port.endpoint_id and port.network_id in self._networks for port in others):
            return False
        return self._first.setdefault(message.sandbox_key, message.endpoint_id) == (
            message.endpoint_id
        )

    def _who(self, network_id: str, endpoint_id: str) -> tuple[str, Container]:
        """Return an endpoint's container and its name, '' when Docker says none."""
        name = self._engine.endpoints(network_id).get(endpoint_id, "")
        return name, self._engine.container(name) if name else Container()

    def leave(self, message: Message) -> Answer:
        self._leave(message)
        self._detached.add(message.endpoint_id)
        return {}

    def delete_endpoint(self, message: Message) -> Answer:
        if message.endpoint_id in self._detached:
            self._detached.discard(message.endpoint_id)
        else:
            self._leave(message)
        return {}

    def _leave(self, message: Message) -> None:
        self._endpoints.pop(message.endpoint_id, None)
        for sandbox in [key for key, it in self._first.items() if it == message.endpoint_id]:
            self._first.pop(sandbox, None)
        owner = protocol.owner(message.network_id, message.endpoint_id)
        try:
            detach(self._agent, owner)
        except Unavailable:
            self._left.add(owner)
            self.hurry.set()
            raise

    def detach_the_left(self) -> None:
        """Detach what Docker has given up while there was no agent."""
        for owner in sorted(self._left):
            try:
                detach(self._agent, owner)
            except Unavailable:
                return
            except MeshnetError as error:
                log.warning("%s stays for now: %s", owner, error.message)
            self._left.discard(owner)
        self.hurry.clear()


def run() -> NoReturn:
    """Serve until killed; nothing is lost by that."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    settings = Settings()
    agent, engine = Agent(settings), Engine(ENGINE)
    networks = Networks(settings.state_dir / STATE)
    remaker = Remaker(agent, engine, networks)
    driver = Driver(agent, engine, networks, remaker)
    server = Server(driver.calls, listener())
    for work in (server.serve_forever, remaker.run):
        threading.Thread(target=work, daemon=True).start()
    sweep = Sweep(agent, engine, networks, driver.give_up)
    hold(agent, networks)
    while True:
        if driver.hurry.wait(SWEEP):
            time.sleep(HURRY)
            driver.detach_the_left()
        else:
            sweep.step()


if __name__ == "__main__":
    run()
