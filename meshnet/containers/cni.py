"""Face. `meshnet-cni`, the CNI plugin: carries a call to the agent, and prints what it answers.

A runtime starts it for every container, several times, so it imports nothing but what the
interpreter brings with it: `socket` alone would double its time, and `__future__` is a file. Where
the agent is elsewhere or not there, `cni_alone` takes over.
"""

import sys
from posix import environ

from meshnet.containers.carrier import SOCKET, BrokenOff, ask


def run() -> int:
    """Carry out the call that environment and standard input hold; return the exit status."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    try:
        if b"runDir" in data:
            raise FileNotFoundError
        status, output = ask(SOCKET, environ, data)
    except (OSError, BrokenOff) as error:
        from meshnet.containers.cni_alone import answer

        status, output = answer(environ, data, error if type(error) is BrokenOff else None)
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    return status


if __name__ == "__main__":
    sys.exit(run())
