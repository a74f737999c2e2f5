"""Face. `meshnet-cni`, the CNI plugin: a process a call, and a thin client of the agent.

The call comes by environment and standard input, the answer goes to standard output, one JSON
object or nothing, an error with exit status 1. What an attachment is lives in the agent alone: the
plugin keeps no file, so a plugin killed anywhere leaves nothing behind, and DEL finds all by the
owner. A runtime starts it for every container, so it imports little.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from meshnet.cli.local import Agent
from meshnet.cli.settings import Settings
from meshnet.containers import cni_protocol as protocol
from meshnet.containers.cni_protocol import Call, CniError
from meshnet.errors import MeshnetError, NotFound, Unavailable
from meshnet.wire.local import (
    Attached,
    AttachmentInfo,
    CheckRequest,
    DetachRequest,
    Done,
    NetworkInfo,
    Status,
)

Reply = dict[str, Any] | None


def run() -> int:
    """Carry out the call that environment and standard input hold; return the exit status."""
    try:
        data = sys.stdin.buffer.read()
    except OSError:
        data = b""
    status, output = answer(os.environ, data)
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    return status


def answer(environment: Mapping[str, str], data: bytes) -> tuple[int, bytes]:
    """Return exit status and output of a call, whatever it holds."""
    command, version = environment.get("CNI_COMMAND", ""), protocol.VERSIONS[-1]
    try:
        call = protocol.read_call(environment, data)
        version = call.config.cni_version
        reply = _carry_out(call)
    except CniError as error:
        return 1, _json(protocol.error_body(error, version))
    except MeshnetError as error:
        return 1, _json(protocol.error_body(protocol.from_error(error, command), version))
    except Exception as error:  # A runtime reads nothing but an error of the specification.
        unexpected = CniError(protocol.UNEXPECTED, f"a mistake in meshnet-cni: {error!r}")
        return 1, _json(protocol.error_body(unexpected, version))
    return 0, b"" if reply is None else _json(reply)


def _json(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _carry_out(call: Call) -> Reply:
    if call.command == "VERSION":
        versions = list(protocol.VERSIONS)
        return {"cniVersion": call.config.cni_version, "supportedVersions": versions}
    agent = Agent(Settings(run_dir=Path(call.config.run_dir)))
    return {"ADD": _add, "DEL": _del, "CHECK": _check, "GC": _gc, "STATUS": _status}[call.command](
        agent, call
    )


def _add(agent: Agent, call: Call) -> Reply:
    request = protocol.attach_request(call)
    _require_namespace(call.netns)
    return protocol.result(call, agent.post("/v1/attach", request, Attached))


def _require_namespace(path: str) -> None:
    try:
        found = Path(path).exists()
    except OSError:
        found = False
    if not found:
        raise CniError(protocol.CONTAINER_UNKNOWN, f"network namespace {path} does not exist")


def _del(agent: Agent, call: Call) -> Reply:
    _detach(agent, call.owner)
    return None


def _detach(agent: Agent, owner: str) -> None:
    try:
        agent.post("/v1/detach", DetachRequest(owner=owner), Done)
    except NotFound:
        return


def _check(agent: Agent, call: Call) -> Reply:
    try:
        given = agent.post("/v1/check", CheckRequest(owner=call.owner), Attached)
    except NotFound as error:
        raise CniError(protocol.CONTAINER_UNKNOWN, error.message, error.hint) from error
    protocol.check_previous(call, given)
    return None


def _gc(agent: Agent, call: Call) -> Reply:
    owners = [item.owner for item in agent.get("/v1/attachments", list[AttachmentInfo])]
    for owner in protocol.unlisted(call, owners):
        _detach(agent, owner)
    return None


def _status(agent: Agent, call: Call) -> Reply:
    status = agent.get("/v1/status", Status)
    if not status.membership_not_after:
        raise Unavailable("this node is no member of the mesh", "See meshnet status.")
    networks = [network.name for network in agent.get("/v1/networks", list[NetworkInfo])]
    if call.config.network not in networks:
        raise Unavailable(
            f"there is no network {call.config.network}", "Make it: meshnet network create."
        )
    return None


if __name__ == "__main__":
    sys.exit(run())
