"""One contract for everything that calls itself WireGuard: fake, wireguard-go and the kernel's.

Each real scene runs in a network and a mount namespace of its own, with an empty /run/wireguard.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from meshnet.errors import BadInput, Conflict, KernelRefused
from meshnet.linux.wireguard import (
    Device,
    WireGuard,
)
from meshnet.linux.wireguard_uapi import SOCKETS
from meshnet.model.addresses import Endpoint, Prefix
from meshnet.model.keys import PresharedKey, PrivateKey, PublicKey
from meshnet.plan.operations import PeerChange
from tests.lab.wireguard_hosts import (
    ANN,
    BEN,
    DEVICE,
    MTU,
    OTHER,
    OURS,
    FakeHost,
    Host,
    RealHost,
    make_backend,
    needs_root,
    own_namespaces,
    read,
    show,
)

PORT = 53820

SECRET = PresharedKey(b"preshared".ljust(32, b"."))
NO_SECRET = PresharedKey(bytes(32))

LIMIT_SECONDS = 20.0


BACKENDS = [
    "fake",
    pytest.param("wireguard-go", marks=pytest.mark.root),
    *(
        pytest.param(name, marks=[pytest.mark.root, pytest.mark.kernel])
        for name in ("kernel", "kernel without single removal")
    ),
]


@pytest.fixture(params=BACKENDS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    if request.param == "fake":
        yield FakeHost()
        return
    needs_root()
    with own_namespaces():
        real = RealHost(make_backend(request.param))
        try:
            yield real
        finally:
            real.close()
        assert not list(SOCKETS.iterdir())


@pytest.fixture
def wg(host: Host) -> WireGuard:
    """The host's WireGuard with a device, configured."""
    host.wireguard.create(DEVICE, MTU)
    host.wireguard.configure(DEVICE, OURS, PORT, 0)
    return host.wireguard


def test_what_was_set_is_read_back(wg: WireGuard) -> None:
    wg.configure(DEVICE, OURS, PORT, 0x1234)
    ann = give(
        ANN,
        "10.1.0.0/16 10.2.0.1/32 fd00:1::/64",
        endpoint=Endpoint.parse("192.0.2.1:1111"),
        keepalive=25,
        preshared_key=SECRET,
    )
    ben = give(BEN, "fd00:2::1/128", endpoint=Endpoint.parse("[2001:db8::2]:2222"))

    wg.change_peers(DEVICE, [ann, ben])

    assert show(read(wg)) == (
        "device us port 53820 fwmark 0x1234\n"
        "ann 10.1.0.0/16 10.2.0.1/32 fd00:1::/64 at 192.0.2.1:1111 keepalive 25 preshared\n"
        "ben fd00:2::1/128 at [2001:db8::2]:2222"
    )


def test_a_new_device_has_no_key_and_no_peers_and_the_mtu_asked_for(host: Host) -> None:
    host.wireguard.create(DEVICE, 1337)

    device = host.wireguard.read(DEVICE)

    assert device is not None
    assert (device.private_key, device.fwmark, device.peers) == (None, 0, {})
    assert host.mtu(DEVICE) == 1337


def test_creating_again_keeps_everything_but_the_mtu(host: Host, wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [give(ANN, "10.1.0.0/16", keepalive=7)])
    before = show(read(wg))

    wg.create(DEVICE, 1300)

    assert show(read(wg)) == before
    assert host.mtu(DEVICE) == 1300


def test_every_step_done_twice_changes_nothing_the_second_time(wg: WireGuard) -> None:
    changes = [
        give(ANN, "10.1.0.0/16", drop="10.9.0.0/16", keepalive=5, preshared_key=SECRET),
        replace(give(BEN, ""), remove=True),
    ]
    wg.change_peers(DEVICE, changes)
    once = show(read(wg))

    wg.configure(DEVICE, OURS, PORT, 0)
    wg.change_peers(DEVICE, changes)

    assert show(read(wg)) == once
    assert once == "device us port 53820\nann 10.1.0.0/16 keepalive 5 preshared"


def test_a_device_that_is_up_takes_its_own_port_again(host: Host, wg: WireGuard) -> None:
    host.set_up(DEVICE)

    wg.configure(DEVICE, OURS, PORT, 9)

    assert show(read(wg)) == "device us port 53820 fwmark 0x9"


def test_an_attribute_not_named_is_left_alone_and_one_reset_is_gone(wg: WireGuard) -> None:
    full = give(ANN, "10.1.0.0/16", endpoint=endpoint(1), keepalive=25, preshared_key=SECRET)
    wg.change_peers(DEVICE, [full])

    wg.change_peers(DEVICE, [PeerChange(ANN.public)])
    untouched = show(read(wg))
    wg.change_peers(DEVICE, [PeerChange(ANN.public, keepalive=0, preshared_key=NO_SECRET)])
    wg.configure(DEVICE, OURS, PORT, 0)

    assert untouched.endswith("ann 10.1.0.0/16 at 192.0.2.1:4001 keepalive 25 preshared")
    assert show(read(wg)) == "device us port 53820\nann 10.1.0.0/16 at 192.0.2.1:4001"


def test_a_fwmark_is_set_and_taken_back(wg: WireGuard) -> None:
    wg.configure(DEVICE, OURS, PORT, 0xFFFFFFFF)
    marked = read(wg).fwmark
    wg.configure(DEVICE, OURS, PORT, 0)

    assert (marked, read(wg).fwmark) == (0xFFFFFFFF, 0)


def test_an_endpoint_is_replaced_across_address_families(wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [give(ANN, "", endpoint=endpoint(1))])
    wg.change_peers(DEVICE, [give(ANN, "", endpoint=Endpoint.parse("[2001:db8::1]:65535"))])

    assert show(read(wg)).endswith("\nann at [2001:db8::1]:65535")


def test_a_change_without_attributes_makes_the_peer(wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [PeerChange(ANN.public)])

    assert show(read(wg)) == "device us port 53820\nann"


def test_giving_a_prefix_to_another_peer_takes_it_from_the_first(wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [give(ANN, "10.1.0.0/16 10.2.0.0/16"), give(BEN, "10.3.0.0/16")])

    wg.change_peers(DEVICE, [give(BEN, "10.1.0.0/16")])

    assert show(read(wg)) == ("device us port 53820\nann 10.2.0.0/16\nben 10.1.0.0/16 10.3.0.0/16")


@pytest.mark.parametrize("order", [1, -1], ids=["gift first", "loss first"])
def test_a_move_given_as_gift_and_loss_ends_with_the_new_owner(wg: WireGuard, order: int) -> None:
    wg.change_peers(DEVICE, [give(ANN, "10.1.0.0/16 10.2.0.0/16")])

    moves = [give(BEN, "10.1.0.0/16"), give(ANN, "", drop="10.1.0.0/16")]
    wg.change_peers(DEVICE, moves[::order])

    assert show(read(wg)) == "device us port 53820\nann 10.2.0.0/16\nben 10.1.0.0/16"


def test_two_peers_swap_their_prefixes(wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [give(ANN, "10.1.0.0/16"), give(BEN, "fd00::/64")])

    swap = [
        give(ANN, "fd00::/64", drop="10.1.0.0/16"),
        give(BEN, "10.1.0.0/16", drop="fd00::/64"),
    ]
    wg.change_peers(DEVICE, swap)

    assert show(read(wg)) == "device us port 53820\nann fd00::/64\nben 10.1.0.0/16"


def test_a_prefix_is_dropped_only_from_the_peer_named(wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [give(ANN, "10.1.0.0/16"), give(BEN, "10.2.0.0/16")])

    wg.change_peers(DEVICE, [give(BEN, "", drop="10.1.0.0/16 10.77.0.0/16")])

    assert show(read(wg)) == "device us port 53820\nann 10.1.0.0/16\nben 10.2.0.0/16"


def test_dropping_one_prefix_leaves_those_inside_and_around_it(wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [give(ANN, "10.0.0.0/8 10.1.0.0/16 10.1.1.0/24 ::/0 fd00::/8")])

    wg.change_peers(DEVICE, [give(ANN, "", drop="10.1.0.0/16 ::/0")])

    assert show(read(wg)) == "device us port 53820\nann 10.0.0.0/8 10.1.1.0/24 fd00::/8"


def test_the_default_routes_of_both_families_can_be_allowed(wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [give(ANN, "0.0.0.0/0 ::/0")])

    assert show(read(wg)) == "device us port 53820\nann 0.0.0.0/0 ::/0"


def test_a_removed_peer_is_gone_with_its_prefixes_and_its_secret(wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [give(ANN, "10.1.0.0/16", keepalive=5, preshared_key=SECRET)])

    wg.change_peers(DEVICE, [PeerChange(ANN.public, remove=True)])
    gone = show(read(wg))
    wg.change_peers(DEVICE, [PeerChange(ANN.public)])

    assert gone == "device us port 53820"
    assert show(read(wg)) == "device us port 53820\nann"


def test_a_removed_peers_prefix_goes_to_its_heir_in_the_same_change(wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [give(ANN, "10.1.0.0/16")])

    wg.change_peers(DEVICE, [PeerChange(ANN.public, remove=True), give(BEN, "10.1.0.0/16")])

    assert show(read(wg)) == "device us port 53820\nben 10.1.0.0/16"


def test_the_devices_own_key_never_becomes_a_peer(wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [give(OURS, "10.1.0.0/16"), give(ANN, "10.2.0.0/16")])

    assert show(read(wg)) == "device us port 53820\nann 10.2.0.0/16"


def test_a_device_that_takes_a_peers_key_loses_that_peer(wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [give(ANN, "10.1.0.0/16"), give(BEN, "10.2.0.0/16")])

    wg.configure(DEVICE, ANN, PORT, 0)

    assert show(read(wg)) == "device ann port 53820\nben 10.2.0.0/16"


def test_five_hundred_prefixes_on_one_peer_change_one_by_one(wg: WireGuard) -> None:
    many = [f"10.{i // 256}.{i % 256}.0/24" for i in range(250)]
    many += [f"fd00:{i:x}::/32" for i in range(250)]
    wg.change_peers(DEVICE, [give(ANN, " ".join(many), keepalive=3)])

    wg.change_peers(DEVICE, [give(ANN, "10.250.0.0/24", drop=" ".join(many[::2]))])

    expected = {ip_network(text) for text in [*many[1::2], "10.250.0.0/24"]}
    assert read(wg).peers[ANN.public].allowed_ips == expected
    assert read(wg).peers[ANN.public].keepalive == 3


def test_a_peer_with_more_prefixes_than_a_message_holds_is_read_back_whole(wg: WireGuard) -> None:
    many = frozenset(ip_network(f"fd00:{i:x}::1/128") for i in range(3000))

    wg.change_peers(DEVICE, [PeerChange(ANN.public, add=many, keepalive=9), give(BEN, "::/0")])
    whole = read(wg)
    wg.change_peers(DEVICE, [PeerChange(ANN.public, drop=many)])

    assert whole.peers[ANN.public].allowed_ips == many
    assert whole.peers[ANN.public].keepalive == 9
    assert show(read(wg)) == "device us port 53820\nann keepalive 9\nben ::/0"


def test_a_thousand_peers_are_set_and_read_and_removed(wg: WireGuard) -> None:
    keys = [PublicKey(i.to_bytes(2, "big").ljust(32, b"k")) for i in range(1000)]
    changes = [
        PeerChange(
            key,
            add=prefixes(f"10.213.{i // 250}.{i % 250}/32 fd00::{i:x}/128"),
            endpoint=endpoint(i),
            keepalive=i % 3,
        )
        for i, key in enumerate(keys)
    ]
    wg.change_peers(DEVICE, changes)
    device = read(wg)

    assert {key: peer.allowed_ips for key, peer in device.peers.items()} == {
        change.key: change.add for change in changes
    }
    assert all(device.peers[change.key].endpoint == change.endpoint for change in changes)
    assert device.status.keys() == device.peers.keys()
    wg.change_peers(DEVICE, [PeerChange(key, remove=True) for key in keys])
    assert show(read(wg)) == "device us port 53820"


def test_a_handshake_shows_its_time_its_bytes_and_where_it_came_from(
    host: Host, wg: WireGuard
) -> None:
    source = Endpoint(ip_address("127.0.0.1"), PORT + 7)
    wg.change_peers(DEVICE, [PeerChange(ANN.public)])
    before = read(wg).status[ANN.public]

    host.shake_hands(DEVICE, ANN.public, source)
    device = wait_for_handshake(wg, ANN.public)

    status = device.status[ANN.public]
    assert (before.last_handshake, before.received, before.sent) == (0, 0, 0)
    assert abs(status.last_handshake - time.time()) < LIMIT_SECONDS
    assert status.received > 0 and status.sent > 0
    assert device.peers[ANN.public].endpoint == source


def test_a_peer_that_gets_its_first_endpoint_keeps_all_it_has(wg: WireGuard) -> None:
    prefixes = "10.1.0.0/16 fd00:1::/64"
    wg.change_peers(DEVICE, [give(ANN, prefixes, keepalive=25, preshared_key=SECRET)])

    wg.change_peers(DEVICE, [give(ANN, "", endpoint=Endpoint.parse("192.0.2.1:1111"))])

    expected = f"ann {prefixes} at 192.0.2.1:1111 keepalive 25 preshared"
    assert show(read(wg)) == f"device us port {PORT}\n{expected}"


def test_a_peer_removed_in_the_middle_of_handshakes_stays_away_and_may_come_back(
    host: Host, wg: WireGuard
) -> None:
    source = Endpoint(ip_address("127.0.0.1"), PORT + 7)
    host.shake_hands(DEVICE, ANN.public, source)
    # A keepalive is sent at once, so a handshake begins; it is under way when the peer goes.
    met = give(ANN, "10.1.0.0/16", endpoint=source, keepalive=1)

    for _ in range(50):
        wg.change_peers(DEVICE, [met])
        wg.change_peers(DEVICE, [PeerChange(ANN.public, remove=True)])
    removed = show(read(wg))
    wg.change_peers(DEVICE, [met])
    host.shake_hands(DEVICE, ANN.public, source)

    assert removed == "device us port 53820"
    assert wait_for_handshake(wg, ANN.public).peers[ANN.public].allowed_ips == met.add


def test_a_preshared_key_is_replaced_by_another(wg: WireGuard) -> None:
    other = PresharedKey(b"another".ljust(32, b"."))
    wg.change_peers(DEVICE, [give(ANN, "10.1.0.0/16", preshared_key=SECRET)])

    wg.change_peers(DEVICE, [give(ANN, "", preshared_key=other)])

    assert read(wg).peers[ANN.public].preshared_key == other
    assert show(read(wg)).endswith("ann 10.1.0.0/16 preshared")


def test_a_port_held_by_a_stranger_is_refused_and_nothing_changes(host: Host) -> None:
    host.hold_port(PORT)
    host.wireguard.create(DEVICE, MTU)
    host.wireguard.configure(DEVICE, OURS, PORT + 1, 5)

    with pytest.raises(KernelRefused) as refusal:
        host.wireguard.configure(DEVICE, BEN, PORT, 6)

    assert refusal.value.errno == errno.EADDRINUSE
    assert show(read(host.wireguard)) == "device us port 53821 fwmark 0x5"


@pytest.mark.parametrize("running", [False, True], ids=["down", "up"])
def test_a_port_of_another_wireguard_device_is_refused(
    host: Host, wg: WireGuard, running: bool
) -> None:
    host.set_up(DEVICE)
    wg.create(OTHER, MTU)
    wg.configure(OTHER, BEN, PORT + 1, 0)
    if running:
        host.set_up(OTHER)

    with pytest.raises(KernelRefused) as refusal:
        wg.configure(OTHER, BEN, PORT, 0)

    assert refusal.value.errno == errno.EADDRINUSE
    assert read(wg, OTHER).listen_port == PORT + 1


def test_a_missing_device_is_none_to_read_and_enodev_to_change(host: Host) -> None:
    wireguard = host.wireguard

    with pytest.raises(KernelRefused) as configuring:
        wireguard.configure(DEVICE, OURS, PORT, 0)
    with pytest.raises(KernelRefused) as changing:
        wireguard.change_peers(DEVICE, [PeerChange(ANN.public)])
    wireguard.remove(DEVICE)

    assert wireguard.read(DEVICE) is None
    assert configuring.value.errno == changing.value.errno == errno.ENODEV
    assert DEVICE in configuring.value.message and DEVICE in changing.value.message


def test_a_removed_device_is_gone_and_its_port_free(host: Host, wg: WireGuard) -> None:
    host.set_up(DEVICE)

    wg.remove(DEVICE)

    assert wg.read(DEVICE) is None
    assert not host.has_link(DEVICE)
    wg.create(OTHER, MTU)
    wg.configure(OTHER, OURS, PORT, 0)


def test_a_link_of_somebody_else_is_never_touched(host: Host) -> None:
    host.add_foreign_link(DEVICE)

    with pytest.raises(Conflict, match="not ours"):
        host.wireguard.create(DEVICE, MTU)
    with pytest.raises(Conflict, match="not ours"):
        host.wireguard.read(DEVICE)
    with pytest.raises(Conflict, match="not ours"):
        host.wireguard.remove(DEVICE)

    assert host.has_link(DEVICE)


def test_a_device_left_unmarked_by_a_crash_counts_as_none_and_is_taken_over(host: Host) -> None:
    host.add_unmarked_device(DEVICE)
    before = host.wireguard.read(DEVICE)

    host.wireguard.create(DEVICE, MTU)

    assert before is None
    assert host.wireguard.read(DEVICE) is not None
    assert host.mtu(DEVICE) == MTU


def test_a_peer_named_twice_is_bad_input_and_changes_nothing(wg: WireGuard) -> None:
    with pytest.raises(BadInput, match="twice"):
        wg.change_peers(DEVICE, [give(ANN, "10.1.0.0/16"), PeerChange(ANN.public, remove=True)])

    assert show(read(wg)) == "device us port 53820"


def test_no_change_is_no_error(wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [])

    assert show(read(wg)) == "device us port 53820"


def test_no_secret_shows_in_a_repr_or_an_error(host: Host, wg: WireGuard) -> None:
    wg.change_peers(DEVICE, [give(ANN, "", preshared_key=SECRET)])
    host.hold_port(PORT + 1)
    with pytest.raises(KernelRefused) as refusal:
        wg.configure(DEVICE, BEN, PORT + 1, 0)

    shown = f"{read(wg)!r} {wg!r} {refusal.value!r} {refusal.value}"

    for secret in (OURS.raw, BEN.raw, SECRET.raw):
        assert secret.hex() not in shown and repr(secret)[2:-1] not in shown


def give(
    peer: PrivateKey,
    add: str,
    *,
    drop: str = "",
    endpoint: Endpoint | None = None,
    keepalive: int | None = None,
    preshared_key: PresharedKey | None = None,
) -> PeerChange:
    key = peer.public
    return PeerChange(key, prefixes(add), prefixes(drop), endpoint, keepalive, preshared_key)


def prefixes(text: str) -> frozenset[Prefix]:
    return frozenset(ip_network(word) for word in text.split())


def endpoint(number: int) -> Endpoint:
    return Endpoint(ip_address("192.0.2.1"), 4000 + number)


def wait_for_handshake(wireguard: WireGuard, key: PublicKey) -> Device:
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        device = read(wireguard)
        if device.status[key].last_handshake and device.status[key].received:
            return device
        time.sleep(0.02)
    raise AssertionError(f"no handshake within {LIMIT_SECONDS} s")
