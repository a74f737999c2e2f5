"""Shell. The lab: hosts, containers, routers and links as namespaces of one machine.

A lab is one pid namespace. Its first process lives as long as a pipe that we hold is open, and the
kernel ends everything in a pid namespace with its first process. So when a test is killed, however
hard, its namespaces, links, mounts and daemons are gone with it: none of them has a name on the
machine, all of them are held by processes in there.

    machine
    └─ lab                 pid namespace, /proc of its own
       ├─ router           network namespace, mount namespace, a bridge for each subnet
       ├─ host             the same, with /run and /var/lib of its own: a machine to all who look
       │  └─ container     a network namespace with the host's files and an own /etc/resolv.conf
       └─ …

    with Lab("two clouds") as lab:
        lab.subnet("cloud-a", "192.0.2.0/24", "2001:db8:a::/64")
        lab.subnet("cloud-b", "198.51.100.0/24", "2001:db8:b::/64")
        a, b = lab.host("a", "cloud-a"), lab.host("b", "cloud-b")
        a.run("ping", "-c1", b.address4)

`place` runs commands, `hosts` are the kinds of places, `topology` joins them, `declared` reads them
from a text, `capture` listens on a link, `mesh` puts meshnet on the hosts by its command line,
`waiting` waits for a state, `guest` and `qemu` run tests under another kernel.
"""

from tests.lab.capture import Capture
from tests.lab.hosts import Container, Host, Router
from tests.lab.place import CommandFailed, Daemon, Place
from tests.lab.topology import Lab, Link, Subnet
from tests.lab.waiting import wait_until

__all__ = [
    "Capture",
    "CommandFailed",
    "Container",
    "Daemon",
    "Host",
    "Lab",
    "Link",
    "Place",
    "Router",
    "Subnet",
    "wait_until",
]
