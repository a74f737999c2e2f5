"""Pure. What Docker's remote network and IPAM drivers are asked, and what they answer.

    network create   RequestPool  RequestAddress(gateway)  CreateNetwork
    run, connect     RequestAddress  CreateEndpoint  Join
    stop, rm         Leave  DeleteEndpoint  ReleaseAddress
    network rm       ReleaseAddress(gateway)  ReleasePool  DeleteNetwork
    dockerd starts   RequestPool  RequestAddress(gateway)            (nothing else is told again)

A pool is one family of one network of the mesh, and its id says which: `meshnet/NETWORK/PREFIX`.
So an id given out long ago still means something to a plugin that has just started.

Docker does not tell an IPAM driver for which of its networks a pool is, so the mesh's network is
named by `--ipam-opt meshnet.network=NAME`, or by `--subnet` with the prefix that it has. A plain
network, one with Docker's own IPAM driver, has its name: see `docker_networks`.

Source: github.com/moby/moby, libnetwork/docs/remote.md and ipam.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, NamedTuple

import msgspec

from meshnet.containers.engine_protocol import Container
from meshnet.containers.labels import wish_of
from meshnet.errors import BadInput, NotFound
from meshnet.model.addresses import RESOLVER, Prefix, gateway
from meshnet.model.names import check_name, label_from
from meshnet.wire.local import AttachRequest, NetworkInfo

NETWORK_OPTION = "meshnet.network"
DRIVER = "meshnet"
INTERNAL = "com.docker.network.internal"
ADDRESS_TYPE = "RequestAddressType"
GATEWAY_TYPE = "com.docker.network.gateway"
LABEL_LIMIT = 63
ON_LINK = 1
"""The route type of what has no next hop."""
INTERFACE_PREFIX = "mesh"
SPACE = "meshnet"

HOW = "Say which: --ipam-driver meshnet --ipam-opt meshnet.network=NAME."

ACTIVATE = {"Implements": ["NetworkDriver", "IpamDriver"]}
NETWORK_CAPABILITIES = {"Scope": "local", "ConnectivityScope": "global"}
IPAM_CAPABILITIES = {"RequiresMACAddress": False, "RequiresRequestReplay": True}
SPACES = {"LocalDefaultAddressSpace": SPACE, "GlobalDefaultAddressSpace": SPACE}


class Message(msgspec.Struct, frozen=True, rename="pascal"):
    """What any request may hold; each call fills in what it is about."""

    pool: str = ""
    sub_pool: str = ""
    v6: bool = msgspec.field(name="V6", default=False)
    pool_id: str = msgspec.field(name="PoolID", default="")
    address: str = ""
    options: dict[str, Any] | None = None
    network_id: str = msgspec.field(name="NetworkID", default="")
    endpoint_id: str = msgspec.field(name="EndpointID", default="")
    sandbox_key: str = ""
    interface: dict[str, str] | None = None
    ipv4_data: list[dict[str, Any]] | None = msgspec.field(name="IPv4Data", default=None)


class IpamConfig(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """One prefix of a network, as Docker's API has it."""

    subnet: str = ""
    ip_range: str = msgspec.field(name="IPRange", default="")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None


class Ipam(msgspec.Struct, frozen=True, rename="pascal"):
    """How a network's addresses are given out, as Docker's API has it."""

    driver: str = "default"
    options: dict[str, str] | None = None
    config: list[IpamConfig] | None = None


class NetworkEndpoint(msgspec.Struct, frozen=True, rename="pascal"):
    """An endpoint of a network as Docker lists it."""

    name: str = ""
    endpoint_id: str = msgspec.field(name="EndpointID", default="")


class NetworkState(msgspec.Struct, frozen=True, rename="pascal"):
    """A network as Docker has it; a list of networks does not say what `containers` are on it."""

    id: str = ""
    name: str = ""
    driver: str = ""
    internal: bool = False
    attachable: bool = False
    enable_ipv6: bool = msgspec.field(name="EnableIPv6", default=False)
    ipam: Ipam = msgspec.field(name="IPAM", default=Ipam())
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    containers: dict[str, NetworkEndpoint] | None = None


class AddressPool(msgspec.Struct, frozen=True, rename="pascal"):
    """Where Docker takes subnets from: those of length `size` in `base`."""

    base: str
    size: int

    def holds(self, prefix: Prefix) -> bool:
        base = parse_prefix(self.base)
        if base.version != prefix.version or prefix.prefixlen != self.size:
            return False
        return base.supernet_of(prefix)  # type: ignore[arg-type]


DOCKERS_POOLS = (AddressPool("172.16.0.0/12", 16), AddressPool("192.168.0.0/16", 20))
"""Where Docker takes subnets from unless its daemon.json says otherwise."""


class Pool(NamedTuple):
    """A pool, by its id."""

    network: str
    prefix: Prefix

    @classmethod
    def parse(cls, text: str) -> Pool:
        """Read a pool's id; raise BadInput for one that is not ours."""
        words = text.split("/", 2)
        if len(words) != 3 or words[0] != SPACE:
            raise BadInput(f"{text[:80]!r} is no pool of the meshnet IPAM driver", HOW)
        return cls(words[1], parse_prefix(words[2]))

    def __str__(self) -> str:
        return f"{SPACE}/{self.network}/{self.prefix}"

    def answer(self) -> dict[str, Any]:
        return {"PoolID": str(self), "Pool": str(self.prefix), "Data": {}}

    def gateway_answer(self) -> dict[str, Any]:
        address = f"{gateway(self.prefix)}/{self.prefix.prefixlen}"
        return {"Address": address, "Data": {}}


def parse_prefix(text: str) -> IPv4Network | IPv6Network:
    """Read a prefix; raise BadInput for what is none."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise BadInput(f"{text[:60]!r} is not a prefix") from error


def decode(data: bytes) -> Message:
    """Read a request; the handshake's have no body."""
    try:
        return msgspec.json.decode(data or b"{}", type=Message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"Docker's request is not valid: {error}") from error


def wanted_network(message: Message) -> str:
    """Return the name of the network that a RequestPool names; '' when it names none."""
    name = (message.options or {}).get(NETWORK_OPTION, "")
    if not isinstance(name, str):
        raise BadInput(f"{NETWORK_OPTION} is no name", HOW)
    return name


def pool_of(message: Message, networks: Sequence[NetworkInfo]) -> Pool:
    """Return the pool that a RequestPool asks for; NotFound when there is no such network."""
    if message.sub_pool:
        raise BadInput("--ip-range is not supported: each node has leases of its own", "Omit it.")
    name = wanted_network(message)
    pools = [
        Pool(network.name, parse_prefix(prefix))
        for network in networks
        for prefix in network.prefixes
        if not name or network.name == name
    ]
    family = 6 if message.v6 else 4
    if message.pool:
        asked = parse_prefix(message.pool)
        fitting = [pool for pool in pools if pool.prefix == asked]
    elif not name:
        raise BadInput("the network of the mesh is not named", HOW)
    else:
        fitting = [pool for pool in pools if pool.prefix.version == family]
    if len(fitting) > 1:
        raise BadInput(f"several networks have the prefix {message.pool}", HOW)
    if not fitting:
        what = f"network {name}" if name else "network"
        with_prefix = f" with the prefix {message.pool}" if message.pool else ""
        raise NotFound(f"the mesh has no {what}{with_prefix}", "Make it: meshnet network create.")
    return fitting[0]


def is_gateway(message: Message) -> bool:
    return (message.options or {}).get(ADDRESS_TYPE) == GATEWAY_TYPE


def is_plain(message: Message) -> bool:
    """Say whether the network of a CreateNetwork has its addresses from another IPAM driver."""
    return (message.ipv4_data or [{}])[0].get("AddressSpace") != SPACE


def mesh_name(state: NetworkState) -> str:
    """Return the name on the mesh of a plain network: by our option, or by its own name."""
    told = (state.options or {}).get(NETWORK_OPTION, "")
    return check_name(told or label_of(state.name), "network")


def label_of(name: str) -> str:
    """Return what a name of Docker's is as a label.

    A label ends where Docker's names may go on: what is cut off makes a difference all the same.
    """
    own = name.replace(".", "-")
    label = label_from(own)
    if len(own) <= LABEL_LIMIT:
        return label
    digest = sha256(name.encode()).hexdigest()[:8]
    return f"{label[: LABEL_LIMIT - 9].rstrip('-')}-{digest}"


def told_network(state: NetworkState) -> str:
    """Return the network of the mesh that one with our IPAM driver is; '' for a plain one."""
    if state.ipam.driver != SPACE:
        return ""
    told = (state.ipam.options or {}).get(NETWORK_OPTION, "")
    return told or (state.options or {}).get(NETWORK_OPTION, "")


def chosen_prefixes(state: NetworkState, pools: Sequence[AddressPool]) -> tuple[str, ...]:
    """Return the prefixes that somebody chose for a plain network: those not out of `pools`."""
    configs = state.ipam.config or []
    if any(config.ip_range or config.auxiliary_addresses for config in configs):
        raise BadInput(
            "--ip-range and --aux-address are not supported: each node has leases of its own",
            "Remove the network and make it without.",
        )
    chosen = []
    for config in configs:
        prefix = parse_prefix(config.subnet)
        # Docker says the gateway of a subnet it chose; of one that was chosen only what was said.
        if config.gateway and any(pool.holds(prefix) for pool in pools):
            continue
        if config.gateway and config.gateway.partition("/")[0] != str(gateway(prefix)):
            raise BadInput(
                f"the gateway of {prefix} on the mesh is {gateway(prefix)}, not {config.gateway}",
                "Remove the network and make it without --gateway.",
            )
        chosen.append(str(prefix))
    return tuple(chosen)


def remade(state: NetworkState, network: NetworkInfo) -> dict[str, Any]:
    """Return what Docker is told to make in place of a plain network."""
    families = (4, 6) if state.enable_ipv6 else (4,)
    prefixes = [text for text in network.prefixes if parse_prefix(text).version in families]
    return {
        "Name": state.name,
        "CheckDuplicate": True,
        "Driver": state.driver,
        "Internal": state.internal,
        "Attachable": state.attachable,
        "EnableIPv6": state.enable_ipv6,
        "Labels": state.labels or {},
        "Options": state.options or {},
        "IPAM": {
            "Driver": SPACE,
            "Options": {NETWORK_OPTION: network.name},
            "Config": [{"Subnet": prefix} for prefix in prefixes],
        },
    }


def mesh_network(message: Message, networks: Sequence[NetworkInfo]) -> str:
    """Return the network of the mesh that a CreateNetwork is of, by the prefix of its pool."""
    data = (message.ipv4_data or [{}])[0]
    generic = (message.options or {}).get("com.docker.network.generic") or {}
    name = generic.get(NETWORK_OPTION, "") if isinstance(generic, dict) else ""
    pool = parse_prefix(str(data.get("Pool")))
    fitting = [
        network.name
        for network in networks
        if str(pool) in network.prefixes and name in ("", network.name)
    ]
    if len(fitting) != 1:
        raise BadInput(
            f"{len(fitting)} networks of the mesh have the prefix {pool}",
            f"Say which: -o {NETWORK_OPTION}=NAME.",
        )
    return fitting[0]


def owner(network_id: str, endpoint_id: str) -> str:
    """Return the owner of an endpoint's attachment."""
    return f"docker/{network_id}/{endpoint_id}"


def attach_request(
    network: str, message: Message, addresses: Sequence[str], name: str, labels: dict[str, str]
) -> AttachRequest:
    """Return what a Join asks of the agent. `name` is the container's, '' when Docker says none."""
    known = Container(id=message.endpoint_id, name=name, state="running", labels=labels)
    wish = wish_of(known)
    return AttachRequest(
        handed=True,
        network=network,
        addresses=tuple(addresses),
        service=wish.told,
        ports=wish.ports,
        aliases=tuple(name for name in wish.services if name != wish.told),
        basis=wish.basis,
        owner=owner(message.network_id, message.endpoint_id),
    )


def join_answer(source: str, *, internal: bool, first: bool) -> dict[str, Any]:
    """Return the answer to a Join. Without a gateway Docker keeps a way out of its own.

    The `first` of our networks in a sandbox has the route to our resolver: a second such route
    would be refused.
    """
    resolver = {"Destination": f"{RESOLVER}/32", "RouteType": ON_LINK, "NextHop": ""}
    return {
        "InterfaceName": {"SrcName": source, "DstPrefix": INTERFACE_PREFIX},
        "StaticRoutes": [resolver] if first else [],
        "DisableGatewayService": internal,
    }
