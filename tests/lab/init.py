"""Shell. The first process of a lab: it reaps orphans and ends when its standard input does.

The kernel kills every process of a pid namespace when the first one ends. Standard input is a pipe
whose other end only the lab's maker holds, so the lab cannot outlive it.
"""

import os
import signal
import sys


def main() -> None:
    """Say our pid as the machine counts it, then live as long as standard input is open."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("ready", flush=True)
    while os.read(sys.stdin.fileno(), 1):
        pass


if __name__ == "__main__":
    main()
