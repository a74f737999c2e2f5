"""Face. `meshnet-netavark`, podman's network driver `meshnet`: carries a call to the agent.

netavark starts it for every container, under the name that the driver has, and reads what it
prints. It understands nothing of it, as `meshnet-cni`, whose way to the agent it takes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from meshnet.containers.carrier import SOCKET, BrokenOff, carry

TARGET = b"/v1/netavark"


def run() -> int:
    """Carry out the call that arguments and standard input hold; return the exit status."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    status, output = answer(SOCKET, sys.argv[1:], data)
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    return status


def answer(path: str, words: Sequence[str], data: bytes) -> tuple[int, bytes]:
    """Return exit status and output of a call, whatever it holds."""
    try:
        return carry(path, TARGET, pack(words, data))
    except BrokenOff as error:
        said = f"the agent on {path} broke off: {error}. See what it logged."
    except OSError as error:
        said = f"no agent answers on {path}: {error.strerror or error}. Start meshnet-agent."
    return 1, json.dumps({"error": said}).encode() + b"\n"


def pack(words: Sequence[str], data: bytes) -> bytes:
    """Return a call as it travels."""
    return b"".join(os.fsencode(word) + b"\0" for word in words) + b"\0" + data


if __name__ == "__main__":
    sys.exit(run())
