"""Shell. The demo's stage: three sites, five machines, and what may be done on them.

`type` is the demo's one verb: it shows a command, runs it where it was typed, shows what came back
and returns it. What is expected is said with `expect`, so a step that does not hold stops the play.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.demo.screen import Screen
from tests.lab import Container, Host, Lab, Place
from tests.lab.mesh import PROGRAM, Mesh, Node
from tests.lab.waiting import NotInTime, seconds_until

SITES = {
    "cloud-a": ("192.0.2.0/24", "2001:db8:a::/64"),
    "cloud-b": ("198.51.100.0/24", "2001:db8:b::/64"),
    "office": ("203.0.113.0/24", "2001:db8:c::/64"),
}
HUB = "hub"
MACHINES = {
    HUB: "cloud-a",
    "cloud-a1": "cloud-a",
    "cloud-b1": "cloud-b",
    "cloud-b2": "cloud-b",
    "office1": "office",
}
"""Machine → site. The hub is the coordinator's; the others become nodes."""


class StepFailed(AssertionError):
    """Something the demo promises does not hold. `place` names where to look, '' everywhere."""

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place


@dataclass
class World:
    """All that the steps act on."""

    lab: Lab
    screen: Screen
    secret: str
    hosts: dict[str, Host] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    mesh: Mesh = field(init=False)

    @property
    def nodes(self) -> dict[str, Node]:
        return self.mesh.nodes

    def build(self) -> None:
        """Make the sites and the machines."""
        for site, prefixes in SITES.items():
            self.lab.subnet(site, *prefixes)
        for name, site in MACHINES.items():
            self.hosts[name] = self.lab.host(name, site)
        self.mesh = Mesh(self.lab, self.hosts[HUB])

    def type(self, place: Place, *words: str, hide: str = "") -> str:
        """Run a command at a place and show it with its output; return the output.

        `hide` is shortened wherever it is shown.
        """
        self.screen.typed(place.name, hidden(shlex.join(words), hide))
        status, text = place.transcript(*((PROGRAM, *words[1:]) if is_ours(words) else words))
        self.screen.output(hidden(text, hide))
        if status:
            raise StepFailed(f"`{hidden(shlex.join(words), hide)}` ended with {status}", place.name)
        return text

    def expect(self, holds: object, what: str, place: Place | None = None) -> None:
        """Say that something holds, or stop the play because it does not."""
        if not holds:
            raise StepFailed(f"this does not hold: {what}", place.name if place else "")
        self.screen.found(what)

    def wait(self, predicate: Callable[[], object], limit: float, what: str, at: Place) -> float:
        """Wait for a state at a place; return how many seconds it took."""
        try:
            return seconds_until(predicate, limit, what)
        except NotInTime as error:
            raise StepFailed(str(error), at.name) from error


def is_ours(words: tuple[str, ...]) -> bool:
    """Say whether this is the command line of meshnet."""
    return words[0] == "meshnet"


def hidden(text: str, secret: str) -> str:
    """Return a text with only the beginning of a secret, enough to know it again."""
    return text.replace(secret, f"{secret[:14]}…") if secret else text
