"""What containers ask for by their labels, and what becomes of any label at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.containers.engine_protocol import Details, Health, Port
from meshnet.containers.labels import (
    Placed,
    attach_request,
    container_of,
    is_concerned,
    is_healthy,
    owner_of,
    wish_of,
    with_aliases,
)
from meshnet.errors import BadInput
from meshnet.model.attached import LocalAttachment
from meshnet.model.names import is_label
from meshnet.wire.local import PortSpec

ID = "2b68" * 16
LABELS = st.dictionaries(
    st.sampled_from(["mesh.service", "mesh.port", "mesh.network", "com.docker.compose.service"]),
    st.text(max_size=70) | st.sampled_from(["web", "80,443", "grpc:9000/tcp", "appnet"]),
)


def container(labels: dict[str, str], name: str = "web-1", **more: object) -> Details:
    return Details(ID, name, **{"state": "running", "labels": labels, "pid": 7, **more})  # type: ignore[arg-type]


def item(name: str, network: str = "default", owner: str = "", inode: int = 0) -> LocalAttachment:
    return LocalAttachment(
        network=network, name=name, addresses=(), mac="", interface="", owner=owner, inode=inode
    )


@settings(max_examples=500)
@given(LABELS, st.text(max_size=80))
def test_any_labels_are_a_wish_that_the_desk_understands_or_refused(
    labels: dict[str, str], name: str
) -> None:
    found = container(labels, name)
    assert is_concerned(found) == bool({"mesh.service", "mesh.network"} & labels.keys())
    try:
        wish = wish_of(found)
    except BadInput as error:
        assert error.message
        return
    assert is_label(wish.network)
    assert all(is_label(service) for service in wish.services)
    assert is_label(wish.basis)
    request = attach_request(wish, 7, "owner")
    assert {request.service, *request.aliases} - {""} == set(wish.services)


def test_labels_say_service_ports_and_network() -> None:
    labels = {
        "mesh.service": "web",
        "mesh.port": "80, grpc:9000",
        "mesh.network": "appnet",
        "com.docker.compose.service": "front",
    }
    wish = wish_of(container(labels))
    assert wish.network == "appnet"
    assert wish.services == ("web", "front")
    assert wish.ports == (PortSpec(number=80, name="http"), PortSpec(number=9000, name="grpc"))
    assert wish.basis == "web-1"


@pytest.mark.parametrize(
    ("state", "health", "healthy"),
    [
        ("running", Health.NONE, True),
        ("running", Health.HEALTHY, True),
        ("running", Health.STARTING, False),
        ("running", Health.UNHEALTHY, False),
        ("paused", Health.HEALTHY, False),
    ],
)
def test_who_is_answered(state: str, health: Health, healthy: bool) -> None:
    assert is_healthy(container({}, state=state, health=health)) == healthy


def test_a_container_that_has_ended_is_of_no_concern() -> None:
    assert not is_concerned(container({"mesh.service": "web"}, state="exited"))


def test_an_owner_tells_the_container_to_its_own_engine_only() -> None:
    owner = owner_of("/run/docker.sock", ID)
    assert container_of("/run/docker.sock", owner) == ID
    assert container_of("/run/other.sock", owner) == ""
    assert container_of("/run/docker.sock", "docker/net/endpoint") == ""


def test_a_number_is_part_of_a_name_only_while_another_has_the_name() -> None:
    one, two = item("web"), item("web-2")
    assert Placed([one]).is_named_for(one, "web")
    assert Placed([one, two]).is_named_for(two, "web")
    assert not Placed([two]).is_named_for(two, "web")
    assert not Placed([item("web", "other"), two]).is_named_for(two, "web")
    assert not Placed([one]).is_named_for(one, "web-2")


def test_what_a_driver_or_a_plugin_has_attached_is_found() -> None:
    driver = item("a", owner="docker/net/end")
    plugin = item("b", owner="cni/meshed/x/eth0", inode=77)
    by_hand = item("d", inode=77)
    labels = item("c", owner=owner_of("/run/docker.sock", ID), inode=77)
    port = Port("n1", "net", "end")
    placed = Placed([driver, plugin, labels, by_hand, item("e")])
    assert placed.by_driver(container({}, ports=(port,))) == [(driver, port)]
    assert placed.by_driver(container({}, ports=(Port("n1", "net", "other"),))) == []
    assert placed.by_others(77) == [plugin, by_hand]
    assert placed.by_others(78) == []
    assert placed.by_labels("/run/docker.sock") == {ID: labels}
    assert placed.by_labels("/run/other.sock") == {}


def test_what_our_docker_driver_attached_is_known_by_its_endpoint_and_has_its_aliases() -> None:
    port = Port("appnet", "net1", "end1", aliases=("db", ID[:12], "web-1", "My_DB"))
    seen = container({"mesh.service": "web"}, ports=(Port("bridge", "net0", "end0"), port))
    ours = item("web-1", "appnet", "docker/net1/end1")
    others = [item("x", "appnet", "docker/net1/end2"), item("y", "appnet", "engine:/run/d/net1")]
    assert Placed([*others, ours]).by_driver(seen) == [(ours, port)]
    assert with_aliases(wish_of(seen), seen, port).services == ("web", "db", "my-db")
