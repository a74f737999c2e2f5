"""Face. What `meshnet-cni` does by itself: asks an agent elsewhere, or says that none is there.

A call that no agent could carry out is refused as the agent would refuse it, with the same code,
so that whoever writes a configuration sees his mistake on a machine without a mesh, too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from meshnet.containers.carrier import BrokenOff, ask
from meshnet.errors import Unavailable
from meshnet.local.agent import LOOK, socket_error
from meshnet.wire import cni
from meshnet.wire.local import SOCKET


def answer(
    environment: Mapping[bytes, bytes], data: bytes, why: BrokenOff | None = None
) -> tuple[int, bytes]:
    """Return exit status and output of a call, whatever it holds.

    `why` is how an agent that had the call broke off: it is not asked again, it may have acted.
    """
    said = {os.fsdecode(key): os.fsdecode(value) for key, value in environment.items()}
    version = cni.VERSIONS[-1]
    try:
        call = cni.read_call(said, data)
        version = call.config.cni_version
        if call.command == "VERSION":
            return 0, cni.reply(cni.versions(call))
        if call.command == "ADD":
            cni.attach_request(call)
        return _ask(Path(call.config.run_dir) / SOCKET, environment, data, why)
    except Exception as error:  # A runtime reads nothing but an error of the specification.
        return 1, cni.failure(error, said.get("CNI_COMMAND", ""), version)


def _ask(
    path: Path, environment: Mapping[bytes, bytes], data: bytes, why: BrokenOff | None
) -> tuple[int, bytes]:
    try:
        if why is not None:
            raise why
        return ask(str(path), dict(environment), data)
    except BrokenOff as error:
        raise Unavailable(f"the agent on {path} broke off: {error}", LOOK) from error
    except OSError as error:
        raise socket_error(path, error) from error
