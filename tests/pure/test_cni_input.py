"""Whatever a runtime says to the CNI plugin, the answer is one that the specification knows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.containers import cni_alone
from meshnet.containers.carrier import pack
from meshnet.wire.cni import (
    ANNOTATIONS,
    COMMANDS,
    SIZE_LIMIT,
    VERSIONS,
    Call,
    read_call,
    unpack,
)
from meshnet.wire.cni import attach_request as request_of
from meshnet.wire.cni import result as result_of
from meshnet.wire.local import Attached, PortSpec

NOBODY = "/nonexistent/run"
PROGRAM = str(Path(sys.executable).with_name("meshnet-cni"))

GIVEN = Attached(
    network="default",
    name="web-1",
    interface="eth0",
    addresses=("10.214.0.2/16", "fd00::2/64"),
    mac="0a:00:00:00:00:01",
    mtu=1370,
    gateways=("10.214.0.1", "fd00::1"),
    dns=("10.214.0.1", "fd00::1"),
)


def environment(command: str = "ADD", **changes: str) -> dict[str, str]:
    usual = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "0123456789abcdef",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web-1",
        "CNI_PATH": "/opt/cni/bin",
    }
    return {key: value for key, value in {**usual, **changes}.items() if value}


def config(version: str = "1.1.0", **more: Any) -> dict[str, Any]:
    return {"cniVersion": version, "name": "pods", "type": "meshnet-cni", "runDir": NOBODY, **more}


def call(**more: Any) -> Call:
    return read_call(environment(), json.dumps(config(**more)).encode())


def raw(env: dict[str, str]) -> dict[bytes, bytes]:
    return {os.fsencode(key): os.fsencode(value) for key, value in env.items()}


def answer(env: dict[str, str], data: bytes) -> tuple[int, bytes]:
    """Answer a call where no agent is."""
    return cni_alone.answer(raw(env), data)


def code_of(env: dict[str, str], said: object) -> int:
    data = said if isinstance(said, bytes) else json.dumps(said).encode()
    status, output = answer(env, data)
    error = json.loads(output)
    assert status == 1
    assert set(error) == {"cniVersion", "code", "msg", "details"}
    assert error["cniVersion"] in VERSIONS
    assert error["msg"]
    assert isinstance(error["code"], int)
    return error["code"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        *("cniVersion", "name", "type", "network", "service", "ports", "interface", "runDir"),
        *("dns", "args", "runtimeConfig", "prevResult", "cni.dev/valid-attachments"),
    ]
)
ENVIRONMENT = st.dictionaries(
    st.sampled_from(["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"]),
    st.text(max_size=30) | st.sampled_from(["\udcff", "a" * 5000, "..", "eth0", "a/b"]),
)


@settings(max_examples=400)
@given(st.sampled_from([*COMMANDS, "", "add", "\udcff"]), ENVIRONMENT, st.binary(max_size=60))
def test_bytes_that_are_no_configuration_are_an_error(
    command: str, changes: dict[str, str], data: bytes
) -> None:
    env = environment(command, **changes)
    if command == "VERSION":
        assert answer(env, data)[0] == 0
    else:
        code_of(env, data)


@settings(max_examples=800)
@given(st.sampled_from(COMMANDS), ENVIRONMENT, st.dictionaries(KEYS, JSON, max_size=4))
def test_a_configuration_with_wrong_values_is_an_error(
    command: str, changes: dict[str, str], wrong: dict[str, Any]
) -> None:
    env, said = environment(command, **changes), {**config(), **wrong}
    if command == "VERSION":
        assert answer(env, json.dumps(said).encode())[0] == 0
    else:
        assert code_of(env, said) != 199


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_json_nested_without_end_is_an_error(depth: int) -> None:
    assert code_of(environment(), b'{"cniVersion":"1.1.0","dns":' + b"[" * depth) in (6, 7)


@pytest.mark.parametrize(
    ("command", "missing", "code"),
    [
        *(("ADD", key, 4) for key in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")),
        *(("CHECK", key, 4) for key in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")),
        *(("DEL", key, 4) for key in ("CNI_CONTAINERID", "CNI_IFNAME")),
        ("DEL", "CNI_NETNS", 11),
        ("ADD", "CNI_ARGS", 11),
    ],
)
def test_a_variable_that_is_missing_is_named_where_it_is_needed(
    command: str, missing: str, code: int
) -> None:
    assert code_of(environment(command, **{missing: ""}), config(prevResult={})) == code


@pytest.mark.parametrize(
    ("command", "code"), [("ADD", 11), ("DEL", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)]
)
def test_without_an_agent_a_runtime_is_told_to_come_again(command: str, code: int) -> None:
    said = config(prevResult={}, **{"cni.dev/valid-attachments": []})
    status, output = answer(environment(command), json.dumps(said).encode())
    assert status == 1
    assert json.loads(output)["code"] == code
    assert "no agent listens on /nonexistent/run/agent.sock" in json.loads(output)["msg"]


@pytest.mark.parametrize("version", ["", "0.1.0", "0.2.0", "2.0.0", "1.1"])
def test_versions_that_are_not_ours_are_error_1(version: str) -> None:
    assert code_of(environment(), config(version)) == 1


@pytest.mark.parametrize(
    ("command", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")]
)
def test_commands_newer_than_the_configuration_are_error_1(command: str, version: str) -> None:
    assert code_of(environment(command), config(version)) == 1


def test_gc_without_a_list_takes_nothing_away() -> None:
    env = environment("GC")
    agentless = code_of(env, config(**{"cni.dev/valid-attachments": []}))
    assert (agentless, code_of(env, config())) == (11, 7)


@pytest.mark.parametrize("fixed", ["IP=10.50.0.9", "IP=10.50.0.9/24,fd00::9;K8S_POD_NAME=a"])
def test_podman_gives_a_fixed_address_among_the_arguments(fixed: str) -> None:
    asked = read_call(environment(CNI_ARGS=fixed), json.dumps(config()).encode())
    assert request_of(asked).addresses[0] == "10.50.0.9"
    assert code_of(environment(CNI_ARGS="MAC=02:00:00:00:00:01"), config()) == 2


@pytest.mark.parametrize("runtime", [{"mac": "02:00:00:00:00:01"}, {"portMappings": [{}]}])
def test_a_capability_that_is_not_ours_is_error_2(runtime: dict[str, Any]) -> None:
    assert code_of(environment(), config(runtimeConfig=runtime)) == 2


def test_an_add_asks_for_what_configuration_labels_and_runtime_say() -> None:
    labels = [{"key": "mesh.service", "value": "web"}, {"key": "mesh.port", "value": "80, 53/udp"}]
    aliases = {"pods": ["shop", "0123456789ab", "web", "web-1"], "other": ["not-ours"]}
    request = request_of(
        call(
            network="appnet",
            service="overridden",
            args={"cni": {"labels": labels}},
            runtimeConfig={"ips": ["10.50.0.9/24"], "aliases": aliases},
        )
    )
    assert request.netns == "/proc/self/ns/net"
    assert request.network == "appnet"
    assert request.interface == "eth0"
    assert request.addresses == ("10.50.0.9",)
    assert request.basis == "web-1"
    assert request.service == "web"
    assert request.aliases == ("shop",)
    assert request.owner == "cni/pods/0123456789abcdef/eth0"
    assert request.ports == (
        PortSpec(number=80, protocol="tcp", name="http"),
        PortSpec(number=53, protocol="udp", name="domain"),
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_a_result_has_the_form_of_its_version(version: str) -> None:
    asked = read_call(environment(), json.dumps(config(version)).encode())
    result = result_of(asked, GIVEN)
    old = version.startswith("0.")
    assert result["cniVersion"] == version
    assert [ip.get("version") for ip in result["ips"]] == (["4", "6"] if old else [None, None])
    assert ("mtu" in result["interfaces"][0]) == (version == "1.1.0")
    assert result["dns"] == {"nameservers": ["10.214.0.1", "fd00::1"], "search": ["mesh"]}


def test_behind_another_plugin_ours_is_a_second_interface() -> None:
    earlier = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/x", "pciID": "1"}],
        "ips": [{"address": "10.88.0.2/16", "gateway": "10.88.0.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    chained = call(prevResult=earlier)
    assert request_of(chained).interface == "mesh0"
    result = result_of(chained, GIVEN)
    assert result["interfaces"][:2] == earlier["interfaces"]
    assert [ip["interface"] for ip in result["ips"]] == [1, 2, 2]
    assert result["routes"] == earlier["routes"]


@given(ENVIRONMENT, st.binary(max_size=60))
def test_a_call_travels_as_it_is(changes: dict[str, str], data: bytes) -> None:
    # No environment holds a NUL: it ends a variable.
    env = environment("ADD", **{key: text.replace("\0", "") for key, text in changes.items()})
    assert unpack(pack(raw({**env, "HOME": "/"}), data)) == (env, data)
    assert unpack(pack({}, data)) == ({}, data)


def test_a_configuration_longer_than_an_agent_takes_is_an_error() -> None:
    assert code_of(environment(), config(dns={"search": ["x" * SIZE_LIMIT]})) == 7


def test_annotations_of_a_pod_are_labels_of_lower_rank() -> None:
    annotations = {"mesh.service": "web", "mesh.port": "80", "other/annotation": "x"}
    said = {"runtimeConfig": {ANNOTATIONS: annotations}, "service": "overridden"}
    assert request_of(call(**said)).service == "web"
    assert request_of(call(**said)).ports == (PortSpec(number=80, protocol="tcp", name="http"),)
    labels = [{"key": "mesh.service", "value": "shop"}]
    assert request_of(call(**said, args={"cni": {"labels": labels}})).service == "shop"


def test_null_is_what_a_runtime_writes_for_nothing() -> None:
    nothing: dict[str, Any] = dict.fromkeys(["ips", "aliases", "portMappings", ANNOTATIONS])
    said = call(runtimeConfig=nothing, args=None, prevResult={"interfaces": None}, ports=None)
    assert request_of(said).interface == "eth0"
    assert code_of(environment(), config(name=None)) == 7


def test_the_plugin_starts_with_what_the_interpreter_brings_with_it() -> None:
    probe = "import sys; had = {*sys.modules}; import meshnet.containers.cni\n"
    probe += "print(*({*sys.modules} - had))"
    command = [sys.executable, "-I", "-c", probe]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(said.stdout.split()) <= {
        *("meshnet", "meshnet.containers", "__future__", "_socket"),
        *("meshnet.containers.cni", "meshnet.containers.carrier"),
    }


def test_the_plugin_is_a_program_that_tells_its_versions_without_an_agent(tmp_path: Path) -> None:
    env = {**os.environ, "CNI_COMMAND": "VERSION"}
    said = json.dumps({"cniVersion": "1.0.0", "runDir": str(tmp_path)}).encode()
    version = subprocess.run([PROGRAM], input=said, env=env, capture_output=True, check=True)
    assert json.loads(version.stdout) == {
        "cniVersion": "1.0.0",
        "supportedVersions": list(VERSIONS),
    }
