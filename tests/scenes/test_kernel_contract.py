"""One contract for everything that calls itself a kernel: networks, their entries, their ports.

The fake and the real kernel pass it; see tests/lab/kernel_wishes.py for the scene.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from meshnet.errors import BadInput, Conflict, KernelRefused, NotFound
from meshnet.plan import operations as op
from meshnet.plan.state import HANDED, Host, Port, handed_interface
from tests.lab.kernel_hosts import Machine
from tests.lab.kernel_wishes import (
    ADDRESS4,
    ADDRESS6,
    BEN,
    CY,
    EMPTY,
    FILLED,
    HOST_PORT,
    MAC,
    NET,
    ON_HOST,
    OTHER_MAC,
    PORT,
    container,
    interfaces,
    machine,
    mend,
    one,
    prefixes,
    read,
    wait_for,
)

__all__ = ["machine"]

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
    machine.kernel.apply(op.RemovePorts(NET, (PORT,)))
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

    machine.kernel.apply(op.RemovePorts(NET, (PORT,)))
    machine.kernel.apply(op.RemovePorts(NET, (PORT,)))

    assert read(machine).ports == {HOST_PORT: ON_HOST}


def test_a_port_handed_to_an_engine_is_made_kept_changed_and_removed(machine: Machine) -> None:
    handed = Port(HANDED, 0, handed_interface(PORT), "0a:00:00:00:00:09", 1370, frozenset())
    mend(machine, one(replace(EMPTY, ports={PORT: handed})))
    assert read(machine).ports == {PORT: handed}

    smaller = replace(handed, mtu=1280)
    for _ in range(2):
        machine.kernel.apply(op.SetPort(NET, PORT, smaller))
    assert read(machine).ports == {PORT: smaller}

    machine.kernel.apply(op.RemovePorts(NET, (PORT,)))
    assert read(machine).ports == {}


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


def test_a_port_ends_with_its_container_and_what_it_may_send_from_with_its_removal(
    machine: Machine,
) -> None:
    port = container(machine)
    mend(machine, one(replace(EMPTY, ports={PORT: port, HOST_PORT: ON_HOST})))

    machine.end_container("c1")

    broken = Port("?", 0, "", "", 0, frozenset(), sources=port.sources)
    wait_for(lambda: read(machine).ports[PORT], broken)
    assert mend(machine, one(replace(EMPTY, ports={HOST_PORT: ON_HOST}))) == ["RemovePorts"]
    assert read(machine).ports == {HOST_PORT: ON_HOST}
    with pytest.raises(NotFound):
        machine.kernel.apply(op.SetPort(NET, PORT, port))
