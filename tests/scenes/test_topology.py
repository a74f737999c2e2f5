"""Shell. A topology is what its few lines say: NATs hide, links delay and lose, all is drawn."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable

import pytest

from tests.lab import Host, Lab, wait_until

pytestmark = pytest.mark.root

Topology = Callable[[str], Lab]

HOMES = """
    subnet cloud   192.0.2.0/24 2001:db8:a::/64
    nat    home    cloud 192.168.7.0/24
    nat    office  cloud 192.168.8.0/24 symmetric
    host   server  cloud
    host   a       home mtu 1400
    host   b       office
"""
MIRROR = """
import socket
at = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
for number, one in enumerate(at):
    one.bind(("0.0.0.0", 7001 + number))
print("listening", flush=True)
while True:
    for one in at:
        _, sender = one.recvfrom(100)
        one.sendto(b"%s:%d" % (sender[0].encode(), sender[1]), sender)
"""
"""Says to whoever asks two ports in turn by which address and port he is seen."""
ASK = """
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(5)
for port in (7001, 7002):
    one.sendto(b"?", (sys.argv[1], port))
    print(one.recv(100).decode())
"""


def test_it_is_drawn_as_it_was_declared(topology: Topology) -> None:
    assert topology(HOMES).draw().splitlines()[1:] == [
        "└─ internet (router)",
        "   └─ cloud 192.0.2.0/24 2001:db8:a::/64",
        "      └─ home eth0 192.0.2.2 2001:db8:a::2 mtu 1500",
        "      └─ office eth0 192.0.2.3 2001:db8:a::3 mtu 1500",
        "      └─ server eth0 192.0.2.4 2001:db8:a::4 mtu 1500",
        "└─ home (NAT)",
        "   └─ home 192.168.7.0/24",
        "      └─ a eth0 192.168.7.2 mtu 1400",
        "└─ office (symmetric NAT)",
        "   └─ office 192.168.8.0/24",
        "      └─ b eth0 192.168.8.2 mtu 1500",
    ]


def test_a_nat_hides_who_is_behind_it_and_a_symmetric_one_changes_its_port(
    topology: Topology,
) -> None:
    lab = topology(HOMES)
    server, a, b = (lab.hosts[name] for name in ("server", "a", "b"))
    mirror = server.start("mirror", sys.executable, "-c", MIRROR)
    wait_until(lambda: "listening" in mirror.text(), 10, "the mirror listens")

    at_home, in_office = seen(a, server), seen(b, server)

    assert {word.split(":")[0] for word in at_home} == {"192.0.2.2"}
    assert {word.split(":")[0] for word in in_office} == {"192.0.2.3"}
    assert len(set(at_home)) == 1
    assert len(set(in_office)) == 2
    assert not server.works("ping", "-c1", "-W1", "192.168.7.2")


@pytest.mark.kernel
def test_a_link_delays_and_loses_what_it_was_declared_to(topology: Topology) -> None:
    lab = topology("""
        subnet cloud 192.0.2.0/24
        host   a     cloud delay 30ms
        host   b     cloud loss 50%
        host   c     cloud
    """)
    a, b, c = lab.hosts.values()

    late = c.output("ping", "-n", "-c3", "-i0.1", a.address4)
    for here, there in ((b, c), (c, b)):  # or the answers to ARP would be lost as well
        link = json.loads(there.output("ip", "-j", "link", "show", "eth0"))[0]
        at = ("dev", "eth0", "lladdr", link["address"])
        here.run("ip", "neigh", "replace", there.address4, *at, "nud", "permanent")
    lossy = c.run("ping", "-n", "-c60", "-i0.02", "-W1", b.address4, check=False).stdout

    assert all(60 <= float(ms) < 200 for ms in re.findall(r"time=([\d.]+)", late))
    assert late.count("time=") == 3
    assert 2 <= lossy.count("time=") <= 40
    assert "      └─ a eth0 192.0.2.2 mtu 1500  delay 30ms" in lab.draw().splitlines()


def seen(host: Host, server: Host) -> list[str]:
    """Return by which addresses and ports two ports of a server see a host."""
    return host.output(sys.executable, "-c", ASK, server.address4).split()
