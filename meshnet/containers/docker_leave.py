"""Shell. Docker's networks of our driver, when a node leaves the mesh for good.

Docker asks a driver before it lets a network go. For one that is not there it waits 15 seconds,
three times over, and again whenever it starts. So the networks are removed as long as our driver is
beside it, as `docker network rm` would: all that no running container is on. The others are named,
for a container belongs to whoever started it.
"""

from __future__ import annotations

from pathlib import Path

from meshnet.containers.docker_engine import Engine
from meshnet.containers.docker_networks import Networks
from meshnet.containers.docker_protocol import DRIVER
from meshnet.errors import MeshnetError


def leave(engine: Engine, state: Path) -> list[str]:
    """Remove Docker's networks of our driver; return a line for each. `state` is what the driver
    remembers of them, for the case that Docker does not answer."""
    try:
        networks = engine.networks(DRIVER)
        users = {one: sorted(engine.endpoints(one).values()) for one in networks}
    except MeshnetError:
        known = sorted(Networks(state).ids()) if state.exists() else []
        return [f"{_stays(one[:12])}, for Docker does not answer" for one in known]
    lines: list[str] = []
    answers = True
    for one, name in sorted(networks.items(), key=lambda item: item[1]):
        try:
            lines.append(_leave(engine, one, name, users[one]) if answers else _stays(name))
        except MeshnetError as error:
            answers = False
            lines.append(f"{_stays(name)}, for {error.message}")
    return lines


def _leave(engine: Engine, network_id: str, name: str, users: list[str]) -> str:
    if users:
        return f"{_stays(name)}, for containers are on it: {', '.join(users)}"
    engine.remove_network(network_id)
    return f"removed Docker's network {name}"


def _stays(name: str) -> str:
    return f"Docker's network {name} stays (`docker network rm {name}` removes it)"
