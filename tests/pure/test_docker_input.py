"""Whatever Docker says to the driver, it gets a reply that it knows, or an error with words."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshnet.containers import docker_protocol as protocol
from meshnet.containers.docker import Driver
from meshnet.containers.docker_engine import Engine
from meshnet.containers.docker_http import Server
from meshnet.containers.docker_networks import Known, Networks, Remaker
from meshnet.containers.docker_protocol import (
    Message,
    NetworkState,
    Pool,
    attach_request,
    pool_of,
)
from meshnet.errors import BadInput, MeshnetError, NotFound, Unavailable
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings
from meshnet.wire.local import NetworkInfo, PortSpec

NETWORKS = [
    NetworkInfo(name="red", vni=1, prefixes=("10.50.0.0/24", "fd00:1::/64")),
    NetworkInfo(name="blue", vni=2, prefixes=("10.50.0.0/24", "fd00:2::/64")),
    NetworkInfo(name="green", vni=3, prefixes=("10.60.0.0/24",)),
]
NAMED_RED = {"meshnet.network": "red"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        *("Pool", "SubPool", "V6", "PoolID", "Address", "Options", "NetworkID", "EndpointID"),
        *("Interface", "IPv4Data"),
    ]
)


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    nobody = tmp_path / "nobody"
    networks = Networks(tmp_path / "docker.json")
    networks.put("known", Known("red"))
    agent, engine = Agent(Settings(run_dir=nobody)), Engine(nobody)
    return Driver(agent, engine, networks, Remaker(agent, engine, networks))


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.binary(max_size=40) | st.dictionaries(KEYS, JSON, max_size=5))
def test_a_message_with_wrong_values_is_an_error_and_changes_nothing(
    driver: Driver, tmp_path: Path, data: st.DataObject, said: bytes | dict[str, Any]
) -> None:
    call = driver.calls[data.draw(st.sampled_from(sorted(driver.calls)))]
    before = (tmp_path / "docker.json").read_bytes()
    try:
        message = protocol.decode(said if isinstance(said, bytes) else json.dumps(said).encode())
        answer = call(message)
    except MeshnetError as error:
        assert error.message
    else:
        assert json.dumps(answer)
    assert (tmp_path / "docker.json").read_bytes() == before


@pytest.mark.parametrize(
    ("message", "pool"),
    [
        (Message(options=NAMED_RED), "meshnet/red/10.50.0.0/24"),
        (Message(options=NAMED_RED, v6=True), "meshnet/red/fd00:1::/64"),
        (Message(options=NAMED_RED, pool="10.50.0.0/24"), "meshnet/red/10.50.0.0/24"),
        (Message(pool="10.60.0.0/24"), "meshnet/green/10.60.0.0/24"),
    ],
)
def test_a_pool_is_found_by_name_or_prefix(message: Message, pool: str) -> None:
    found = pool_of(message, NETWORKS)
    assert str(found) == pool
    assert Pool.parse(pool) == found


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (Message(), BadInput),
        (Message(pool="10.50.0.0/24"), BadInput),
        (Message(pool="10.50.0.0/24", sub_pool="10.50.0.0/26"), BadInput),
        (Message(pool="10.99.0.0/24"), NotFound),
        (Message(options={"meshnet.network": "none"}), NotFound),
        (Message(options=NAMED_RED, pool="10.60.0.0/24"), NotFound),
    ],
)
def test_a_pool_that_cannot_be_told_is_refused(message: Message, error: type[Exception]) -> None:
    with pytest.raises(error):
        pool_of(message, NETWORKS)


def test_docker_networks_are_remembered_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "docker.json"
    Networks(path).put("id", Known("red", internal=True))
    assert Networks(path).get("id") == Known("red", internal=True)
    Networks(path).remove("id")
    with pytest.raises(NotFound):
        Networks(path).get("id")
    path.write_bytes(b"{")
    with pytest.raises(BadInput, match="damaged"):
        Networks(path)


def test_names_come_from_container_label_and_compose() -> None:
    message = Message(network_id="n", endpoint_id="e" * 64)
    compose = {"com.docker.compose.service": "front_end"}
    labels = {"mesh.service": "web", "mesh.port": "80, grpc:9000", **compose}
    full = attach_request("red", message, ["10.50.0.9"], "my_shop", labels)
    assert (full.basis, full.service, full.aliases) == ("my-shop", "web", ("front-end",))
    assert full.owner == f"docker/n/{'e' * 64}"
    assert full.ports == (
        PortSpec(number=80, name="http"),
        PortSpec(number=9000, name="grpc"),
    )
    composed = attach_request("red", message, ["10.50.0.9"], "", compose)
    assert (composed.basis, composed.service) == ("c-eeeeeeeeeeee", "")
    assert composed.aliases == ("front-end",)


def plain(*configs: dict[str, Any], **said: Any) -> NetworkState:
    return msgspec.convert({"Name": "net", "IPAM": {"Config": list(configs)}, **said}, NetworkState)


DOCKERS = {"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}
CHOSEN = {"Subnet": "10.50.0.0/24"}


@pytest.mark.parametrize(
    ("config", "chosen"),
    [
        (DOCKERS, ()),
        ({"Subnet": "192.168.32.0/20", "Gateway": "192.168.32.1"}, ()),
        (CHOSEN, ("10.50.0.0/24",)),
        ({**CHOSEN, "Gateway": "10.50.0.1"}, ("10.50.0.0/24",)),
        ({"Subnet": "172.18.5.0/24"}, ("172.18.5.0/24",)),
        ({"Subnet": "172.30.0.0/16"}, ("172.30.0.0/16",)),
    ],
)
def test_a_prefix_is_dockers_or_was_chosen(config: dict[str, Any], chosen: tuple[str, ...]) -> None:
    assert protocol.chosen_prefixes(plain(config), protocol.DOCKERS_POOLS) == chosen


@pytest.mark.parametrize(
    "more",
    [
        {"Gateway": "10.50.0.7"},
        {"IPRange": "10.50.0.0/25"},
        {"AuxiliaryAddresses": {"router": "10.50.0.9"}},
    ],
)
def test_what_the_mesh_cannot_keep_of_a_plain_network_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        protocol.chosen_prefixes(plain({**CHOSEN, **more}), protocol.DOCKERS_POOLS)


def test_long_names_of_networks_that_begin_alike_are_two_networks_of_the_mesh() -> None:
    one, other = (protocol.mesh_name(plain(DOCKERS, Name="n" * 100 + end)) for end in "ab")
    assert one != other
    assert one[:54] == other[:54] == "n" * 54
    assert protocol.mesh_name(plain(DOCKERS, Name="n" * 63)) == "n" * 63


def test_a_plain_network_is_made_anew_with_all_that_it_had() -> None:
    state = plain(
        DOCKERS,
        Driver="meshnet",
        Internal=True,
        Labels={"com.docker.compose.network": "net"},
        Options={"meshnet.network": "red"},
    )
    assert protocol.mesh_name(state) == "red"
    assert protocol.mesh_name(plain(DOCKERS, Name="My.Shop_net")) == "my-shop-net"
    made = protocol.remade(state, NETWORKS[0])
    assert made["Name"] == "net"
    assert (made["Driver"], made["Internal"], made["Options"]) == ("meshnet", True, state.options)
    assert made["Labels"] == state.labels
    assert made["IPAM"] == {
        "Driver": "meshnet",
        "Options": {"meshnet.network": "red"},
        "Config": [{"Subnet": "10.50.0.0/24"}],
    }


def test_a_plain_network_says_why_it_is_not_on_the_mesh(tmp_path: Path) -> None:
    networks = Networks(tmp_path / "docker.json")
    networks.put("id", Known(""))
    with pytest.raises(Unavailable, match="try again"):
        networks.on_mesh("id")
    networks.put("id", Known("", spec={"Name": "net"}, why="no coordinator"))
    again = Networks(tmp_path / "docker.json")
    assert again.plain() == ["id"]
    with pytest.raises(Unavailable, match="no coordinator"):
        again.on_mesh("id")
    again.remove("id", lambda known: known.spec is None)
    assert "id" in again


HEAD = b"POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (HEAD + b"\r\n", b"200"),
        (HEAD + b"Content-Length: 2\r\n\r\n{}", b"200"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b"200"),
        (HEAD + b"Content-Length: many\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: -1\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", b"400"),
        (b"GET /Plugin.Activate HTTP/1.1\r\n\r\n", b"501"),
        (b"POST /NetworkDriver.Nothing HTTP/1.1\r\n\r\n", b"404"),
        (b"\xff\x00\r\n\r\n", b"400"),
    ],
)
def test_whatever_comes_on_the_plugin_socket_has_an_answer(
    driver: Driver, tmp_path: Path, said: bytes, answer: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as dockerd:
        listener.bind(str(tmp_path / "plugin.sock"))
        listener.listen()
        server = Server(driver.calls, listener)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        dockerd.settimeout(10)
        dockerd.connect(str(tmp_path / "plugin.sock"))
        dockerd.sendall(said)
        assert answer in dockerd.recv(4096).partition(b"\r\n")[0]
        thread.join(10)
