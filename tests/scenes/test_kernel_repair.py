"""The contract of the kernel port, continued: drift, guard, tunnel, taking away, events.

The fake and the real kernel pass it; see tests/lab/kernel_wishes.py for the scene.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network

import pytest

from meshnet.errors import Conflict, KernelRefused, Unavailable
from meshnet.linux.backend import pick_backend
from meshnet.linux.port import Event
from meshnet.plan import operations as op
from meshnet.plan.state import Guard, Host
from tests.lab.kernel_hosts import TUNNEL, Machine, RealHost, dump, own_machine, run
from tests.lab.kernel_wishes import (
    ADDRESS4,
    ADDRESS6,
    BEN,
    CY,
    FILLED,
    GUARD,
    HOST_PORT,
    LIMIT_SECONDS,
    MAC,
    NET,
    NEW_MAC,
    ON_HOST,
    OTHER_MAC,
    PORT,
    TUNNEL_STATE,
    container,
    interfaces,
    machine,
    mend,
    one,
    prefixes,
    read,
)
from tests.lab.wireguard_hosts import needs_root

__all__ = ["machine"]

# Drift


def drifting(machine: Machine) -> Host:
    """Bring about a network with everything in it; return what is wanted."""
    port = container(machine)
    want = one(replace(FILLED, flood=frozenset({CY}), ports={PORT: port, HOST_PORT: ON_HOST}))
    mend(machine, want)
    return want


ENTRIES = ["SetFdb", "SetFlood", "SetNeighbours"]


@pytest.mark.parametrize(
    ("link", "repair"),
    [
        ("vx0", ["BuildSegment", *ENTRIES]),
        ("br0", ["BuildSegment", "SetPort", "SetPort"]),
        (PORT, ["SetPort"]),
        (HOST_PORT, ["SetPort"]),
    ],
)
def test_a_link_that_was_deleted_is_made_again(
    machine: Machine, link: str, repair: list[str]
) -> None:
    want = drifting(machine)

    machine.delete_link(NET, link)

    assert mend(machine, want) == repair
    assert machine.kernel.read() == want


@pytest.mark.parametrize(
    ("link", "repair"),
    [("vx0", ["BuildSegment"]), ("br0", ["BuildSegment"]), (PORT, ["SetPort"])],
)
def test_a_link_that_was_set_down_is_set_up(machine: Machine, link: str, repair: list[str]) -> None:
    want = drifting(machine)

    machine.set_down(NET, link)
    done = mend(machine, want)

    # IPv6 neighbours and addresses may go with the link; what comes first is the link.
    assert done[: len(repair)] == repair
    assert machine.kernel.read() == want


def test_a_namespace_that_lost_its_name_gets_it_back_with_all_that_is_in_it(
    machine: Machine,
) -> None:
    want = drifting(machine)

    machine.lose_name(NET)

    assert mend(machine, want) == ["BuildSegment"]
    assert machine.kernel.read() == want


def test_forged_missing_and_foreign_entries_show_and_are_mended(machine: Machine) -> None:
    want = drifting(machine)

    machine.set_entry(NET, MAC, IPv4Address("10.213.0.66"))
    machine.set_entry(NET, OTHER_MAC, None)
    machine.set_entry(NET, NEW_MAC, BEN)
    machine.set_neighbour(NET, ADDRESS4, NEW_MAC)
    machine.set_neighbour(NET, ADDRESS6, None)
    machine.set_neighbour(NET, ip_address("10.214.0.99"), NEW_MAC)
    shown = read(machine)

    assert shown.fdb == {MAC: IPv4Address("10.213.0.66"), NEW_MAC: BEN}
    assert shown.neighbours == {
        ADDRESS4: NEW_MAC,
        ip_address("10.214.0.30"): OTHER_MAC,
        ip_address("10.214.0.99"): NEW_MAC,
    }
    assert mend(machine, want) == ["SetFdb", "SetNeighbours", "RemoveNeighbours", "RemoveFdb"]
    assert machine.kernel.read() == want


@pytest.mark.parametrize("port", [PORT, HOST_PORT])
def test_an_address_that_a_port_lost_is_given_again(machine: Machine, port: str) -> None:
    want = drifting(machine)
    gone = min(want.segments[NET].ports[port].addresses, key=str)

    machine.remove_port_address(NET, port, gone)

    assert gone not in read(machine).ports[port].addresses
    assert mend(machine, want) == ["SetPort"]


@pytest.mark.parametrize("port", [PORT, HOST_PORT])
def test_an_address_that_a_port_may_not_send_from_is_taken_back(
    machine: Machine, port: str
) -> None:
    want = drifting(machine)

    for address in (ip_address("10.214.0.66"), ip_address("fd00:1::66")):
        machine.allow_source(NET, port, address)

    assert ip_address("10.214.0.66") in read(machine).ports[port].sources
    assert mend(machine, want)[-1] == "SetPort"
    assert machine.kernel.read() == want


def test_a_source_guard_that_was_deleted_is_made_again(machine: Machine) -> None:
    want = drifting(machine)

    machine.delete_source_guard(NET)

    assert {port.sources for port in read(machine).ports.values()} == {frozenset()}
    assert mend(machine, want) == ["BuildSegment", "SetPort", "SetPort"]
    assert machine.kernel.read() == want


# Guard


def test_the_guard_reads_as_it_was_set(machine: Machine) -> None:
    before = machine.kernel.read().guard
    machine.kernel.apply(op.SetGuard(GUARD))
    set_once = machine.kernel.read().guard
    wider = Guard("other0", prefixes("10.0.0.0/8 10.213.0.0/16"), frozenset({14789, 8472}))
    machine.kernel.apply(op.SetGuard(replace(wider, mesh_prefixes=prefixes("10.0.0.0/8"))))

    assert (before, set_once) == (None, GUARD)
    assert machine.kernel.read().guard == replace(wider, mesh_prefixes=prefixes("10.0.0.0/8"))


def test_a_forged_or_deleted_guard_is_set_again(machine: Machine) -> None:
    mend(machine, Host(guard=GUARD))

    machine.forge_guard()
    forged = machine.kernel.read().guard
    first = mend(machine, Host(guard=GUARD))
    machine.delete_guard()
    deleted = machine.kernel.read().guard

    assert forged not in (None, GUARD)
    assert deleted is None
    assert first == mend(machine, Host(guard=GUARD)) == ["SetGuard"]


def test_a_removed_guard_is_gone(machine: Machine) -> None:
    machine.kernel.apply(op.SetGuard(GUARD))

    machine.kernel.apply(op.RemoveGuard())
    machine.kernel.apply(op.RemoveGuard())

    assert machine.kernel.read() == Host()


# Tunnel


@pytest.fixture
def wireguard(machine: Machine) -> None:
    """Skip, loudly, where a real host can have no WireGuard."""
    if isinstance(machine, RealHost):
        try:
            assert pick_backend().backend
        except Unavailable as error:
            pytest.skip(f"TUNNEL NOT TESTED: {error.message}; {error.hint}")


@pytest.mark.usefixtures("wireguard")
def test_a_tunnel_reads_as_it_was_wanted(machine: Machine) -> None:
    want = Host(tunnel=TUNNEL_STATE, guard=GUARD)

    mend(machine, want)

    assert machine.kernel.read() == want


@pytest.mark.usefixtures("wireguard")
def test_addresses_and_routes_of_the_tunnel_are_added_mended_and_removed(machine: Machine) -> None:
    mend(machine, Host(tunnel=TUNNEL_STATE))
    for address in sorted(TUNNEL_STATE.addresses, key=str):
        machine.kernel.apply(op.AddAddress(TUNNEL, address))
    for prefix in sorted(TUNNEL_STATE.routes, key=str):
        machine.kernel.apply(op.AddRoute(TUNNEL, prefix, TUNNEL_STATE.routes[prefix]))

    machine.remove_tunnel_address(ip_interface("fd00:2::1/128"))
    machine.remove_tunnel_route(ip_network("10.213.0.0/16"))
    machine.kernel.apply(op.AddRoute(TUNNEL, ip_network("fd00:2::2/128"), 1300))
    repaired = mend(machine, Host(tunnel=TUNNEL_STATE))
    fewer = replace(TUNNEL_STATE, mtu=1380, addresses=interfaces("10.213.0.1/32"), routes={})
    mend(machine, Host(tunnel=fewer))

    assert repaired == ["AddAddress", "AddRoute", "AddRoute"]
    assert machine.kernel.read() == Host(tunnel=fewer)
    machine.kernel.apply(op.RemoveAddress(TUNNEL, ip_interface("fd00:2::1/128")))
    machine.kernel.apply(op.RemoveRoute(TUNNEL, ip_network("10.213.0.0/16")))


@pytest.mark.usefixtures("wireguard")
def test_a_removed_tunnel_is_gone_and_removing_from_it_is_no_error(machine: Machine) -> None:
    mend(machine, Host(tunnel=TUNNEL_STATE))

    mend(machine, Host())

    assert machine.kernel.read() == Host()
    machine.kernel.apply(op.RemoveTunnel(TUNNEL))
    machine.kernel.apply(op.RemoveAddress(TUNNEL, ip_interface("10.213.0.1/32")))
    machine.kernel.apply(op.RemoveRoute(TUNNEL, ip_network("10.213.0.0/16")))


def test_a_tunnel_that_is_not_there_cannot_be_changed(machine: Machine) -> None:
    for operation in (
        op.AddAddress(TUNNEL, ip_interface("10.213.0.1/32")),
        op.AddRoute(TUNNEL, ip_network("10.213.0.0/16")),
        op.SetTunnelLink(TUNNEL, 1400),
    ):
        with pytest.raises(KernelRefused, match=TUNNEL) as refusal:
            machine.kernel.apply(operation)
        assert refusal.value.errno == errno.ENODEV


@pytest.mark.usefixtures("wireguard")
def test_a_foreign_route_to_the_same_prefix_is_a_conflict_and_stays(machine: Machine) -> None:
    prefix = ip_network("10.213.0.0/16")
    machine.add_foreign_route(prefix)
    mend(machine, Host(tunnel=replace(TUNNEL_STATE, routes={})))

    with pytest.raises(Conflict, match="not ours"):
        machine.kernel.apply(op.AddRoute(TUNNEL, prefix))

    assert machine.kernel.read().tunnel == replace(TUNNEL_STATE, routes={})
    if isinstance(machine, RealHost):
        assert "dev foreign0" in run(f"ip route show {prefix}")


# Everything away


def everything(machine: Machine) -> Host:
    port = container(machine)
    first = replace(FILLED, ports={PORT: port, HOST_PORT: ON_HOST})
    second = replace(FILLED, vni=78, ports={PORT: replace(port, interface="mesh1")})
    return Host(tunnel=TUNNEL_STATE, guard=GUARD, segments={NET: first, "two": second})


@pytest.mark.usefixtures("wireguard")
def test_purge_says_what_it_removed_and_leaves_nothing(machine: Machine) -> None:
    mend(machine, everything(machine))
    machine.restart()

    lines = machine.kernel.purge()

    assert sorted(lines) == [
        "removed WireGuard device meshnet0",
        "removed network appnet",
        "removed network two",
        "removed nft table inet meshnet",
        f"removed port {PORT} of network appnet",
        f"removed port {PORT} of network two",
        f"removed port {HOST_PORT} of network appnet",
    ]
    assert machine.kernel.read() == Host()
    assert machine.kernel.purge() == []


@pytest.mark.root
@pytest.mark.parametrize("by", ["purge", "plan"])
def test_nothing_of_ours_is_left_and_nothing_foreign_is_touched(by: str) -> None:
    needs_root()
    with own_machine():
        machine = RealHost()
        container(machine, "c0")
        for command in (
            "ip link add foreign0 type veth peer name foreign1",
            "ip addr add 192.0.2.1/24 dev foreign0",
            "ip link set foreign0 up",
            "ip route add 198.51.100.0/24 via 192.0.2.7 proto 42 onlink dev foreign0",
            "ip rule add from 192.0.2.0/24 table 42",
            "nft add table inet foreign",
            "nft add chain inet foreign input",
            "nft add rule inet foreign input udp dport 14789 counter accept",
        ):
            run(command)
        run("ip netns add c1")
        before = dump()
        run("ip netns del c1")
        mend(machine, everything(machine))
        during = dump()

        if by == "purge":
            machine.kernel.purge()
        else:
            mend(machine, Host())

        assert during != before
        # Names in /run/netns are listed with it; the numbers of later links may differ.
        assert dump() == before
        machine.close()


# Events


async def test_drift_is_told_as_an_event_of_its_network(machine: Machine) -> None:
    mend(machine, one(replace(FILLED, ports={PORT: container(machine)})))
    events = machine.kernel.events()
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)

    machine.delete_link(NET, PORT)

    event = await asyncio.wait_for(waiting, LIMIT_SECONDS)
    assert event == Event(host=False, networks=frozenset({NET}))
    await events.aclose()  # type: ignore[attr-defined]


async def test_a_network_that_is_built_while_we_listen_is_listened_to(machine: Machine) -> None:
    events = machine.kernel.events()
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    mend(machine, one(FILLED))
    seen = await asyncio.wait_for(waiting, LIMIT_SECONDS)
    assert NET in seen.networks

    machine.set_entry(NET, MAC, None)

    async with asyncio.timeout(LIMIT_SECONDS):
        while NET not in (await anext(events)).networks:
            pass
    await events.aclose()  # type: ignore[attr-defined]


async def test_a_trusting_look_sees_what_an_event_has_told_of(machine: Machine) -> None:
    mend(machine, one(FILLED))
    machine.set_entry(NET, MAC, None)
    events = machine.kernel.events()
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    seen_late = machine.kernel.read(trusting=True)
    assert MAC not in seen_late.segments[NET].fdb  # nobody had listened yet
    if isinstance(machine, RealHost):
        assert machine.kernel.read(trusting=True).segments[NET].fdb is seen_late.segments[NET].fdb

    machine.kernel.apply(op.SetFdb(NET, {MAC: FILLED.fdb[MAC]}))
    assert machine.kernel.read(trusting=True) == one(FILLED)  # before the event of it is heard

    await asyncio.wait_for(waiting, LIMIT_SECONDS)
    machine.set_neighbour(NET, ADDRESS4, NEW_MAC)
    machine.set_neighbour(NET, ADDRESS6, None)
    machine.set_entry(NET, MAC, None)
    machine.set_entry(NET, NEW_MAC, CY)
    altered = replace(
        FILLED,
        fdb={mac: vtep for mac, vtep in FILLED.fdb.items() if mac != MAC} | {NEW_MAC: CY},
        neighbours={a: m for a, m in FILLED.neighbours.items() if a != ADDRESS6}
        | {ADDRESS4: NEW_MAC},
    )
    async with asyncio.timeout(LIMIT_SECONDS):
        while machine.kernel.read(trusting=True) != one(altered):
            assert NET in (await anext(events)).networks
    await events.aclose()  # type: ignore[attr-defined]


async def test_a_change_of_the_guard_is_an_event_of_the_host(machine: Machine) -> None:
    mend(machine, Host(guard=GUARD))
    events = machine.kernel.events()
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)

    machine.delete_guard()

    assert (await asyncio.wait_for(waiting, LIMIT_SECONDS)).host
    await events.aclose()  # type: ignore[attr-defined]
