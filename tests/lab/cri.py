"""Shell. One call of a container runtime's interface (CRI), in a process of its own.

    python -m tests.lab.cri SOCKET METHOD     the request comes in and the reply goes out as hex

gRPC starts threads, and a process with threads is a bad parent: those who build labs fork a lot.
"""

from __future__ import annotations

import sys

import grpc

PATIENCE = 60.0


def main(socket: str, method: str) -> int:
    request = bytes.fromhex(sys.stdin.read())
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        call = channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")
        try:
            print(call(request, timeout=PATIENCE).hex())
        except grpc.RpcError as error:
            print(error.details(), file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
