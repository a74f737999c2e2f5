"""One contract for everything that calls itself a kernel: the fake and the real one.

Each real scene runs in a network and a mount namespace of its own. What is wanted is compared with
what is read, whole; drift is made by `ip`, `bridge` and `nft`, and mended by the plan.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network

import pytest

from meshnet.errors import BadInput, Conflict, KernelRefused, NotFound, Unavailable
from meshnet.linux.port import Event
from meshnet.linux.wireguard import pick_backend
from meshnet.model.addresses import Interface, Prefix
from meshnet.model.keys import PrivateKey
from meshnet.plan import operations as op
from meshnet.plan.diff import plan
from meshnet.plan.state import HOST, Guard, Host, Peer, Port, Segment, Tunnel
from tests.lab.kernel_hosts import TUNNEL, FakeHost, Machine, RealHost, dump, own_machine, run
from tests.lab.wireguard_hosts import needs_root

NET = "appnet"
PORT, HOST_PORT = "p0a0000000101", "p0a0000000102"
MAC, OTHER_MAC, NEW_MAC = "0a:00:00:00:00:02", "0a:00:00:00:00:03", "0a:00:00:00:00:99"
BEN, CY = IPv4Address("10.213.0.2"), IPv4Address("10.213.0.3")
ADDRESS4, ADDRESS6 = ip_address("10.214.0.20"), ip_address("fd00:1::20")
LIMIT_SECONDS = 10.0


def interfaces(text: str) -> frozenset[Interface]:
    return frozenset(ip_interface(word) for word in text.split())


def prefixes(text: str) -> frozenset[Prefix]:
    return frozenset(ip_network(word) for word in text.split())


EMPTY = Segment(
    vni=77,
    mtu=1370,
    local=IPv4Address("10.213.0.1"),
    vtep_mac="02:00:00:00:00:01",
    gateway_mac="0e:00:00:00:00:01",
    gateways=interfaces("10.214.0.1/16 fd00:1::1/64"),
)
FILLED = replace(
    EMPTY,
    fdb={MAC: BEN, OTHER_MAC: CY},
    neighbours={ADDRESS4: MAC, ADDRESS6: MAC, ip_address("10.214.0.30"): OTHER_MAC},
)
ON_HOST = Port(
    netns=HOST,
    inode=0,
    interface="mesh-appnet",
    mac="0a:00:00:00:01:02",
    mtu=1370,
    addresses=interfaces("10.214.0.6/16 fd00:1::6/64"),
)
GUARD = Guard(TUNNEL, prefixes("10.213.0.0/16 fd00:2::/48"), frozenset({14789}))
TUNNEL_STATE = Tunnel(
    name=TUNNEL,
    private_key=PrivateKey.from_random(b"kernel contract".ljust(32, b".")),
    listen_port=53911,
    mtu=1420,
    addresses=interfaces("10.213.0.1/32 fd00:2::1/128"),
    routes=prefixes("10.213.0.0/16 fd00:2::/48"),
    peers={
        PrivateKey.from_random(b"ben".ljust(32, b".")).public: Peer(
            prefixes("10.213.0.2/32 fd00:2::2/128"), keepalive=25
        )
    },
)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if request.param == "fake":
        yield FakeHost()
        return
    needs_root()
    with own_machine():
        real = RealHost()
        try:
            yield real
        finally:
            real.close()


def read(machine: Machine, network: str = NET) -> Segment:
    return machine.kernel.read([network], tunnel=False).segments[network]


def mend(machine: Machine, want: Host, *, remove: bool = True) -> list[str]:
    """Do what the plan says; return the kinds of what was done. A second look must find nothing."""
    done = plan(want, machine.kernel.read(), remove=remove)
    for operation in done:
        machine.kernel.apply(operation)
    left = plan(want, machine.kernel.read(), remove=remove)
    assert not left, [str(one) for one in left]
    return [type(one).__name__ for one in done]


def container(machine: Machine, name: str = "c1", number: int = 5) -> Port:
    """Start a container; return the port it is to have."""
    path, inode = machine.start_container(name)
    return Port(
        netns=path,
        inode=inode,
        interface="mesh0",
        mac=f"0a:00:00:00:01:{number:02x}",
        mtu=1370,
        addresses=interfaces(f"10.214.0.{number}/16 fd00:1::{number}/64"),
    )


def one(segment: Segment, network: str = NET) -> Host:
    return Host(segments={network: segment})


# Networks


def test_a_host_with_nothing_of_ours_reads_empty(machine: Machine) -> None:
    assert machine.kernel.read() == Host()


def test_a_network_that_was_built_reads_as_it_was_wanted(machine: Machine) -> None:
    machine.kernel.apply(op.BuildSegment(NET, EMPTY))

    assert machine.kernel.read() == one(EMPTY)


def test_building_a_network_again_changes_nothing(machine: Machine) -> None:
    mend(machine, one(FILLED))

    machine.kernel.apply(op.BuildSegment(NET, FILLED))

    assert read(machine) == FILLED


def test_only_the_networks_asked_for_are_read(machine: Machine) -> None:
    machine.kernel.apply(op.BuildSegment("one", EMPTY))
    machine.kernel.apply(op.BuildSegment("two", replace(EMPTY, vni=78)))

    asked = machine.kernel.read(["two", "none"], tunnel=False)

    assert asked == Host(segments={"two": replace(EMPTY, vni=78)})
    assert set(machine.kernel.read().segments) == {"one", "two"}


def test_mtu_macs_and_gateways_change_in_place(machine: Machine) -> None:
    mend(machine, one(FILLED))
    changed = replace(
        FILLED,
        mtu=1290,
        vtep_mac="02:00:00:00:00:09",
        gateway_mac="0e:00:00:00:00:09",
        gateways=interfaces("10.214.0.1/16 10.215.0.1/24 fd00:9::1/64"),
    )

    machine.kernel.apply(op.BuildSegment(NET, changed))

    assert read(machine) == changed


def test_another_vni_or_vtep_replaces_the_vxlan_device_with_its_entries(machine: Machine) -> None:
    mend(machine, one(FILLED))
    moved = replace(FILLED, vni=99, local=IPv4Address("10.213.0.9"))

    machine.kernel.apply(op.BuildSegment(NET, moved))
    after = read(machine)

    assert after == replace(moved, fdb={}, neighbours={})
    assert mend(machine, one(moved)) == ["SetFdb", "SetNeighbours"]


def test_a_removed_network_is_gone_with_its_ports(machine: Machine) -> None:
    port = container(machine)
    mend(machine, one(replace(FILLED, ports={PORT: port, HOST_PORT: ON_HOST})))

    machine.kernel.apply(op.RemoveSegment(NET))
    machine.kernel.apply(op.RemoveSegment(NET))

    assert machine.kernel.read() == Host()
    machine.kernel.apply(op.BuildSegment("other", FILLED))
    machine.kernel.apply(op.SetPort("other", PORT, port))


def test_two_networks_with_the_same_prefix_do_not_disturb_each_other(machine: Machine) -> None:
    port = container(machine)
    first = replace(FILLED, ports={PORT: port})
    second = replace(FILLED, vni=78, fdb={MAC: CY}, ports={PORT: replace(port, interface="mesh1")})
    want = Host(segments={"one": first, "two": second})

    mend(machine, want)

    assert machine.kernel.read() == want


def test_two_networks_with_the_same_vni_are_refused(machine: Machine) -> None:
    machine.kernel.apply(op.BuildSegment("one", EMPTY))

    with pytest.raises(KernelRefused) as refusal:
        machine.kernel.apply(op.BuildSegment("two", EMPTY))

    assert refusal.value.errno == errno.EEXIST
    assert "VNI 77" in refusal.value.message


def test_what_is_there_is_adopted_after_a_restart(machine: Machine) -> None:
    want = one(replace(FILLED, ports={PORT: container(machine), HOST_PORT: ON_HOST}))
    mend(machine, want)

    machine.restart()

    assert machine.kernel.read() == want


# Entries


def test_entries_of_both_families_are_read_back(machine: Machine) -> None:
    machine.kernel.apply(op.BuildSegment(NET, EMPTY))

    machine.kernel.apply(op.SetFdb(NET, FILLED.fdb))
    machine.kernel.apply(op.SetNeighbours(NET, FILLED.neighbours))

    assert read(machine) == FILLED


def test_entries_are_replaced_and_removed_one_by_one(machine: Machine) -> None:
    mend(machine, one(FILLED))

    machine.kernel.apply(op.SetFdb(NET, {MAC: CY}))
    machine.kernel.apply(op.SetNeighbours(NET, {ADDRESS6: OTHER_MAC}))
    machine.kernel.apply(op.RemoveFdb(NET, {OTHER_MAC: CY}))
    machine.kernel.apply(op.RemoveNeighbours(NET, {ADDRESS4: MAC}))

    assert read(machine) == replace(
        EMPTY,
        fdb={MAC: CY},
        neighbours={ADDRESS6: OTHER_MAC, ip_address("10.214.0.30"): OTHER_MAC},
    )


def test_setting_or_removing_entries_twice_is_no_error(machine: Machine) -> None:
    mend(machine, one(FILLED))

    for _ in range(2):
        machine.kernel.apply(op.SetFdb(NET, FILLED.fdb))
        machine.kernel.apply(op.SetNeighbours(NET, FILLED.neighbours))
    same = read(machine)
    for _ in range(2):
        machine.kernel.apply(op.RemoveFdb(NET, FILLED.fdb))
        machine.kernel.apply(op.RemoveNeighbours(NET, FILLED.neighbours))

    assert same == FILLED
    assert read(machine) == EMPTY


def test_three_thousand_entries_are_set_and_read_and_removed(machine: Machine) -> None:
    macs = [f"0a:00:00:01:{i // 256:02x}:{i % 256:02x}" for i in range(3000)]
    fdb = {mac: CY if i % 2 else BEN for i, mac in enumerate(macs)}
    neighbours = {ip_address("10.214.8.0") + i: mac for i, mac in enumerate(macs)}
    neighbours |= {ip_address("fd00:1::8:0") + i: mac for i, mac in enumerate(macs)}
    machine.kernel.apply(op.BuildSegment(NET, EMPTY))

    machine.kernel.apply(op.SetFdb(NET, fdb))
    machine.kernel.apply(op.SetNeighbours(NET, neighbours))
    full = read(machine)
    machine.kernel.apply(op.RemoveNeighbours(NET, neighbours))
    machine.kernel.apply(op.RemoveFdb(NET, fdb))

    assert full == replace(EMPTY, fdb=fdb, neighbours=neighbours)
    assert read(machine) == EMPTY


def test_flooding_goes_to_exactly_the_vteps_named(machine: Machine) -> None:
    mend(machine, one(FILLED))

    machine.kernel.apply(op.SetFlood(NET, frozenset({BEN, CY})))
    both = read(machine).flood
    machine.kernel.apply(op.SetFlood(NET, frozenset({CY})))
    machine.kernel.apply(op.SetFlood(NET, frozenset({CY})))
    alone = read(machine)
    machine.kernel.apply(op.SetFlood(NET, frozenset()))

    assert both == {BEN, CY}
    assert alone == replace(FILLED, flood=frozenset({CY}))
    assert read(machine) == FILLED


def test_changing_a_network_that_is_not_there_is_not_found(machine: Machine) -> None:
    for operation in (
        op.SetFdb(NET, FILLED.fdb),
        op.SetNeighbours(NET, FILLED.neighbours),
        op.SetFlood(NET, frozenset({BEN})),
        op.SetPort(NET, HOST_PORT, ON_HOST),
    ):
        with pytest.raises(NotFound, match=NET):
            machine.kernel.apply(operation)


def test_removing_from_a_network_that_is_not_there_is_no_error(machine: Machine) -> None:
    machine.kernel.apply(op.RemoveFdb(NET, FILLED.fdb))
    machine.kernel.apply(op.RemoveNeighbours(NET, FILLED.neighbours))
    machine.kernel.apply(op.RemovePort(NET, PORT))
    machine.kernel.apply(op.RemoveSegment(NET))

    assert machine.kernel.read() == Host()


def test_what_is_no_operation_is_bad_input(machine: Machine) -> None:
    with pytest.raises(BadInput):
        machine.kernel.apply("remove everything")  # type: ignore[arg-type]


# Ports


def test_ports_into_a_container_and_the_host_read_as_they_were_wanted(machine: Machine) -> None:
    want = replace(FILLED, ports={PORT: container(machine), HOST_PORT: ON_HOST})

    mend(machine, one(want))

    assert read(machine) == want


def test_routes_of_a_port_go_by_the_gateway_of_their_family(machine: Machine) -> None:
    port = replace(
        container(machine),
        routes=prefixes("10.99.0.0/16 fd99::/64"),
        gateways=frozenset({ip_address("10.214.0.1"), ip_address("fd00:1::1")}),
    )
    want = replace(EMPTY, ports={PORT: port})
    mend(machine, one(want))
    fewer = replace(port, routes=prefixes("10.98.0.0/16"), gateways=frozenset())

    machine.kernel.apply(op.SetPort(NET, PORT, fewer))

    assert read(machine) == replace(EMPTY, ports={PORT: fewer})


def test_every_part_of_a_port_changes_in_place(machine: Machine) -> None:
    port = container(machine)
    mend(machine, one(replace(EMPTY, ports={PORT: port})))
    changed = replace(
        port,
        interface="eth7",
        mac="0a:00:00:00:07:07",
        mtu=1280,
        addresses=interfaces("10.214.7.7/16 fd00:1::7:7/64"),
    )

    machine.kernel.apply(op.SetPort(NET, PORT, changed))

    assert read(machine).ports == {PORT: changed}


def test_a_port_moves_to_another_namespace(machine: Machine) -> None:
    first, second = container(machine, "c1"), container(machine, "c2")
    mend(machine, one(replace(EMPTY, ports={PORT: first})))

    machine.kernel.apply(op.SetPort(NET, PORT, second))

    assert read(machine).ports == {PORT: second}


def test_setting_a_port_again_changes_nothing(machine: Machine) -> None:
    port = container(machine)
    for _ in range(2):
        mend(machine, one(replace(EMPTY, ports={PORT: port, HOST_PORT: ON_HOST})))
        machine.kernel.apply(op.SetPort(NET, PORT, port))
        machine.kernel.apply(op.SetPort(NET, HOST_PORT, ON_HOST))

    assert read(machine).ports == {PORT: port, HOST_PORT: ON_HOST}


def test_a_removed_port_is_gone_and_the_others_stay(machine: Machine) -> None:
    port = container(machine)
    mend(machine, one(replace(EMPTY, ports={PORT: port, HOST_PORT: ON_HOST})))

    machine.kernel.apply(op.RemovePort(NET, PORT))
    machine.kernel.apply(op.RemovePort(NET, PORT))

    assert read(machine).ports == {HOST_PORT: ON_HOST}


def test_a_port_into_a_namespace_that_is_gone_or_another_is_not_found(machine: Machine) -> None:
    port = container(machine)
    machine.kernel.apply(op.BuildSegment(NET, EMPTY))

    with pytest.raises(NotFound, match="netns"):
        machine.kernel.apply(op.SetPort(NET, PORT, replace(port, inode=port.inode + 1)))
    with pytest.raises(NotFound, match="netns"):
        machine.kernel.apply(op.SetPort(NET, PORT, replace(port, netns="/run/netns/nobody")))

    assert read(machine) == EMPTY


def test_an_interface_name_that_is_taken_is_a_conflict(machine: Machine) -> None:
    port = container(machine)
    machine.add_foreign_interface("c1", port.interface)
    machine.kernel.apply(op.BuildSegment(NET, EMPTY))

    with pytest.raises(Conflict, match="mesh0"):
        machine.kernel.apply(op.SetPort(NET, PORT, port))

    assert read(machine) == EMPTY


def test_a_port_ends_with_its_container(machine: Machine) -> None:
    port = container(machine)
    mend(machine, one(replace(EMPTY, ports={PORT: port, HOST_PORT: ON_HOST})))

    machine.end_container("c1")

    wait_for(lambda: read(machine).ports, {HOST_PORT: ON_HOST})
    with pytest.raises(NotFound):
        machine.kernel.apply(op.SetPort(NET, PORT, port))


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
        machine.kernel.apply(op.AddRoute(TUNNEL, prefix))

    machine.remove_tunnel_address(ip_interface("fd00:2::1/128"))
    machine.remove_tunnel_route(ip_network("10.213.0.0/16"))
    repaired = mend(machine, Host(tunnel=TUNNEL_STATE))
    fewer = replace(
        TUNNEL_STATE, mtu=1380, addresses=interfaces("10.213.0.1/32"), routes=frozenset()
    )
    mend(machine, Host(tunnel=fewer))

    assert repaired == ["AddAddress", "AddRoute"]
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
    mend(machine, Host(tunnel=replace(TUNNEL_STATE, routes=frozenset())))

    with pytest.raises(Conflict, match="not ours"):
        machine.kernel.apply(op.AddRoute(TUNNEL, prefix))

    assert machine.kernel.read().tunnel == replace(TUNNEL_STATE, routes=frozenset())
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
    drifting(machine)
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


async def test_a_change_of_the_guard_is_an_event_of_the_host(machine: Machine) -> None:
    mend(machine, Host(guard=GUARD))
    events = machine.kernel.events()
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)

    machine.delete_guard()

    assert (await asyncio.wait_for(waiting, LIMIT_SECONDS)).host
    await events.aclose()  # type: ignore[attr-defined]


def wait_for(look: object, wanted: object) -> None:
    """Wait until what is looked at is what is wanted."""
    from tests.lab.waiting import wait_until

    assert callable(look)
    wait_until(lambda: look() == wanted, LIMIT_SECONDS, lambda: f"{look()} becomes {wanted}")
