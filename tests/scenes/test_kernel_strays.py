"""The kernel port where things of ours were moved: links to other names, routes to other links,
kernel settings to other values. All is brought back; see tests/lab/kernel_wishes.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from meshnet.errors import Unavailable
from meshnet.linux.backend import pick_backend
from meshnet.plan.state import Host
from tests.lab.kernel_hosts import TUNNEL, Machine, run
from tests.lab.kernel_wishes import (
    FILLED,
    HOST_PORT,
    NET,
    ON_HOST,
    PORT,
    TUNNEL_STATE,
    container,
    machine,
    mend,
    one,
)

__all__ = ["machine"]

REAL = [
    pytest.param("real", marks=pytest.mark.root),
    pytest.param("WireGuard in the kernel", marks=[pytest.mark.root, pytest.mark.kernel]),
]
"""A fake has no names and settings apart from what they are for."""

IN = f"ip netns exec meshnet-{NET}"


@pytest.fixture
def network(machine: Machine) -> Host:
    """A network with everything in it."""
    want = one(replace(FILLED, ports={PORT: container(machine), HOST_PORT: ON_HOST}))
    mend(machine, want)
    return want


@pytest.fixture
def tunnel(machine: Machine) -> Host:
    try:
        assert pick_backend().backend
    except Unavailable as error:
        pytest.skip(f"TUNNEL NOT TESTED: {error.message}; {error.hint}")
    want = Host(tunnel=TUNNEL_STATE)
    mend(machine, want)
    return want


@pytest.mark.parametrize("machine", REAL, indirect=True)
@pytest.mark.parametrize("link", ["br0", "vx0"])
def test_a_link_with_another_name_gets_its_own_back(
    machine: Machine, network: Host, link: str
) -> None:
    run(f"{IN} ip link set {link} down")
    run(f"{IN} ip link set {link} name moved0")

    mend(machine, network)

    assert machine.kernel.read() == network
    assert "moved0" not in run(f"{IN} ip link")


@pytest.mark.parametrize("machine", REAL, indirect=True)
def test_a_tunnel_with_another_name_gets_its_own_back(machine: Machine, tunnel: Host) -> None:
    run(f"ip link set {TUNNEL} down")
    run(f"ip link set {TUNNEL} name moved0")

    mend(machine, tunnel)

    assert machine.kernel.read() == tunnel
    assert "moved0" not in run("ip link")


@pytest.mark.parametrize("machine", REAL, indirect=True)
@pytest.mark.parametrize("prefix", ["10.213.0.0/16", "10.213.7.0/24"])
def test_a_route_of_ours_over_another_link_goes(
    machine: Machine, tunnel: Host, prefix: str
) -> None:
    run("ip link add foreign0 type bridge")
    run("ip link set foreign0 up")
    run("ip route add 10.98.0.0/16 dev foreign0")
    run(f"ip route replace {prefix} dev foreign0 proto 109")

    mend(machine, tunnel)

    assert machine.kernel.read() == tunnel
    assert run("ip route show dev foreign0").split()[:3] == ["10.98.0.0/16", "scope", "link"]
    assert "109" not in run("ip route show dev foreign0")


@pytest.mark.parametrize("machine", REAL, indirect=True)
@pytest.mark.parametrize(
    ("where", "setting", "value"),
    [
        (IN, "ipv4/ip_forward", "1"),
        (IN, "ipv6/conf/vx0/addr_gen_mode", "0"),
        (IN, "ipv6/conf/br0/disable_ipv6", "1"),
        ("", "ipv6/conf/mesh-appnet/accept_ra", "1"),
    ],
)
def test_a_setting_of_a_network_that_was_changed_is_set_back(
    machine: Machine, network: Host, where: str, setting: str, value: str
) -> None:
    ask = f"{where} sysctl -n net/{setting}"
    before = run(ask)
    run(f"{where} sysctl -w net/{setting}={value}")

    mend(machine, network)

    assert machine.kernel.read() == network
    assert run(ask) == before


@pytest.mark.parametrize("machine", REAL, indirect=True)
@pytest.mark.parametrize(("setting", "value"), [("accept_ra", "1"), ("accept_redirects", "1")])
def test_a_setting_of_the_tunnel_that_was_changed_is_set_back(
    machine: Machine, tunnel: Host, setting: str, value: str
) -> None:
    path = Path(f"/proc/sys/net/ipv6/conf/{TUNNEL}/{setting}")
    before = path.read_text()
    path.write_text(value)

    assert mend(machine, tunnel) == ["SetTunnelLink"]

    assert machine.kernel.read() == tunnel
    assert path.read_text() == before
