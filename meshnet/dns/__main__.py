"""Shell. `python -m meshnet.dns --control PATH`: the DNS process. The agent starts it."""

from __future__ import annotations

import sys

from meshnet.dns.server import Server
from meshnet.errors import MeshnetError

USAGE = "usage: python -m meshnet.dns --control PATH"


def main(arguments: list[str]) -> int:
    """Run until told to stop; return the exit code. Its only argument is read by hand: argparse
    would be a tenth of the process.
    """
    if len(arguments) != 2 or arguments[0] != "--control":
        print(USAGE, file=sys.stderr)
        return 2
    try:
        Server(arguments[1]).run()
    except MeshnetError as error:
        print(f"meshnet dns: {error.message}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"meshnet dns: control socket {arguments[1]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
