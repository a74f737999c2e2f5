"""meshnet: one encrypted network for containers on any hosts.

The map of the package, from the ground up; imports go down only and a test holds it.

    cli/                       faces: the `meshnet` command
    agent/ coordinator/ dns/   shells: sockets, files, clock, chance
    linux/                     drivers: netlink, WireGuard, network namespaces, nft
    plan/ paths/               decisions: pure, time is an argument
    model/ wire/               values and their wire form: pure
"""

__version__ = "0.1.0"
