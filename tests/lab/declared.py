"""Shell. A lab declared in a few lines of text.

    subnet  cloud   192.0.2.0/24 2001:db8:a::/64
    nat     home    cloud 192.168.7.0/24            behind a router that hides it; or `symmetric`
    host    a       cloud mtu 1400
    host    b       home delay 20ms loss 1%

One line for each thing, after what it hangs on. What a link does to packets is said in the words of
tc-netem(8), which a kernel must have for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile

from tests.lab.place import CommandFailed
from tests.lab.topology import Lab


class NoNetem(Exception):
    """The kernel cannot delay or lose packets for us."""


@contextmanager
def declared(title: str, text: str) -> Iterator[Lab]:
    """Open a lab that is as the text says."""
    with Lab(title) as lab:
        for line in filter(None, map(str.split, text.splitlines())):
            kind, name, *words = line
            _DECLARE[kind](lab, name, words)
        yield lab


def _subnet(lab: Lab, name: str, words: list[str]) -> None:
    lab.subnet(name, *words)


def _nat(lab: Lab, name: str, words: list[str]) -> None:
    outside, *inside = words
    prefixes = [word for word in inside if word != "symmetric"]
    lab.nat(name, outside, *prefixes, symmetric="symmetric" in inside)


def _host(lab: Lab, name: str, words: list[str]) -> None:
    subnets = list(takewhile(lab.subnets.__contains__, words))
    rest = words[len(subnets) :]
    mtu = 1500
    if rest[:1] == ["mtu"]:
        mtu, rest = int(rest[1]), rest[2:]
    host = lab.host(name, *subnets, mtu=mtu)
    if rest:
        try:
            host.links[0].impair(" ".join(rest))
        except CommandFailed as error:
            raise NoNetem(f"no {' '.join(rest)} with this kernel: {error.output}") from error


_DECLARE: dict[str, Callable[[Lab, str, list[str]], None]] = {
    "subnet": _subnet,
    "nat": _nat,
    "host": _host,
}
