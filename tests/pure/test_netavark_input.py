"""Whatever netavark says to the plugin, it gets what it knows: a reply, or an error with words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.containers.netavark import answer, pack
from meshnet.errors import BadInput
from meshnet.model.names import is_label
from meshnet.wire.local import Attached, NetworkInfo
from meshnet.wire.netavark import (
    attach_request,
    created,
    failure,
    info,
    network_of,
    owner,
    read_call,
    result,
    unpack,
)

ID = "46c1" * 16
NETNS = "/run/netns/netns-1"
RED = NetworkInfo(
    name="red",
    vni=1,
    prefixes=("10.72.0.0/24", "fd00:72::/64"),
    gateways=("10.72.0.1", "fd00:72::1"),
)
CREATE: dict[str, Any] = {
    "name": "red",
    "id": "ba49",
    "driver": "meshnet",
    "created": "0001-01-01T00:00:00Z",
    "ipv6_enabled": False,
    "internal": False,
    "dns_enabled": True,
}
SETUP: dict[str, Any] = {
    "container_id": ID,
    "container_name": "web_1",
    "port_mappings": [{"container_port": 80, "host_port": 8080, "protocol": "tcp", "range": 1}],
    "network": {**CREATE, "options": None, "subnets": None},
    "network_options": {
        "aliases": ["web", ID[:12]],
        "interface_name": "eth0",
        "static_ips": ["10.72.0.9"],
        "static_mac": None,
    },
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, valid: dict[str, Any]) -> bytes:
    """Draw a valid input in which one value, at any depth, is another one or missing."""
    message = json.loads(json.dumps(valid))
    place = message
    while True:
        key = draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        if draw(st.booleans()):
            place[key] = draw(JSON)
        else:
            del place[key]
        return json.dumps(message).encode()


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


@settings(max_examples=500)
@given(
    st.lists(st.sampled_from(["create", "setup", "teardown", "info", NETNS, "", "x"]), max_size=3),
    st.binary(max_size=40) | damaged(SETUP) | damaged(CREATE),
)
def test_any_call_is_understood_or_refused(words: list[str], data: bytes) -> None:
    try:
        call = read_call(words, data)
        network_of(call)
        if call.command == "create":
            created(call, RED)
        if call.container:
            request = attach_request(call, call.container)
            assert request.netns == NETNS
            assert request.owner.count("/") == 3
            assert is_label(request.basis)
    except BadInput as error:
        assert json.loads(failure(error)).keys() == {"error"}


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
    ),
    st.binary(),
)
def test_a_call_travels_as_it_is(words: list[str], data: bytes) -> None:
    assert unpack(pack(words, data)) == (words, data)


def test_a_network_is_completed_and_podman_gives_out_no_addresses() -> None:
    call = read_call(["create"], encoded(CREATE))
    assert network_of(call) == ("red", ())
    assert created(call, RED) == {
        **CREATE,
        "subnets": [
            {"subnet": "10.72.0.0/24", "gateway": "10.72.0.1"},
            {"subnet": "fd00:72::/64", "gateway": "fd00:72::1"},
        ],
        "ipv6_enabled": True,
        "ipam_options": {"driver": "none"},
    }


def test_a_network_may_have_another_name_on_the_mesh() -> None:
    said = {**CREATE, "name": "My_Net", "options": {"meshnet.network": "red"}}
    assert network_of(read_call(["create"], encoded(said)))[0] == "red"
    with pytest.raises(BadInput, match="option mtu"):
        network_of(read_call(["create"], encoded({**CREATE, "options": {"mtu": "9000"}})))


def test_a_prefix_that_the_network_has_not_is_refused() -> None:
    call = read_call(["create"], encoded({**CREATE, "subnets": [{"subnet": "10.9.0.0/24"}]}))
    assert network_of(call)[1] == ("10.9.0.0/24",)
    with pytest.raises(BadInput, match=r"has 10\.72\.0\.0/24, fd00:72::/64, not 10\.9\.0\.0/24"):
        created(call, RED)


def test_a_setup_is_an_attachment() -> None:
    call = read_call(["setup", NETNS], encoded(SETUP))
    assert call.container
    request = attach_request(call, call.container)
    assert (request.netns, request.network, request.interface) == (NETNS, "red", "eth0")
    assert request.addresses == ("10.72.0.9",)
    assert (request.service, request.aliases, request.basis) == ("", ("web",), "web-1")
    assert request.owner == owner(call.container) == f"netavark/red/{ID}/eth0"


def test_a_mac_cannot_be_chosen() -> None:
    said = {**SETUP["network_options"], "static_mac": "02:00:00:00:00:11"}
    call = read_call(["setup", NETNS], encoded({**SETUP, "network_options": said}))
    assert call.container
    with pytest.raises(BadInput, match="MAC"):
        attach_request(call, call.container)


def test_what_was_given_is_told_in_netavarks_words() -> None:
    given = Attached(
        network="red",
        name="web-1",
        interface="eth0",
        addresses=("10.72.0.9/24", "fd00:72::9/64"),
        mac="0a:00:00:00:00:09",
        mtu=1370,
        dns=("10.72.0.1",),
    )
    assert result(given) == {
        "dns_search_domains": ["red.mesh", "mesh"],
        "dns_server_ips": ["10.72.0.1"],
        "interfaces": {
            "eth0": {
                "mac_address": "0a:00:00:00:00:09",
                "subnets": [{"ipnet": "10.72.0.9/24"}, {"ipnet": "fd00:72::9/64"}],
            }
        },
    }
    assert info("1.2")["api_version"] == "1.0.0"


def test_without_an_agent_the_plugin_says_so(tmp_path: Path) -> None:
    status, output = answer(str(tmp_path / "agent.sock"), ["create"], b"{}")
    assert status == 1
    assert "no agent answers" in json.loads(output)["error"]
