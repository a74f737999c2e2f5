"""Shell. What others may do to a node's kernel behind its agent's back, drawn; and a look at all.

A tampering is one shell line, run on the host by the tools an administrator has. Those that belong
into the network's namespace or the container's are put there by `nsenter`. The words in them are
set by `words_of`: `$peer`, `$vtep`, `$mac`, `$address`, `$port`, …
"""

from __future__ import annotations

import re

from hypothesis import strategies as st

from tests.lab import CommandFailed
from tests.scenes.mesh_scenes import SEGMENT, UNSTABLE, Box

IN = " ".join(SEGMENT)
INSIDE = "nsenter --net=$container"
"""Before a command: run it in the namespace of container c1."""

LINKS = {
    "meshnet0": "",
    "mesh-default": "",
    "vx0": IN,
    "br0": IN,
    "$port": IN,
    "$interface": INSIDE,
}
"""Our links and what to put before a command to be where they are."""

SETTINGS = {
    "ipv6/conf/meshnet0/disable_ipv6=1": "",
    "ipv6/conf/meshnet0/accept_ra=1": "",
    "ipv6/conf/mesh-default/accept_ra=1": "",
    "ipv4/conf/mesh-default/accept_redirects=1": "",
    "ipv4/ip_forward=1": IN,
    "ipv6/conf/all/forwarding=1": IN,
    "ipv6/conf/br0/disable_ipv6=1": IN,
    "ipv6/conf/vx0/addr_gen_mode=0": IN,
}

STRANGER = "6Wd5JwFf0yTl6BYuL1Rp1zbW2rRpZCkQk8kXv0f2C0U="
NAMED = "/run/netns/meshnet-default"

numbers = st.integers(1, 254)
macs = numbers.map(lambda number: f"02:00:00:00:99:{number:02x}")
links = st.sampled_from(sorted(LINKS))


def _lines(*lines: str) -> st.SearchStrategy[str]:
    return st.sampled_from(lines)


def _on_link(link: str, words: str) -> str:
    return f"{LINKS[link]} ip {words}".strip()


def _numbered(*lines: str) -> st.SearchStrategy[str]:
    """Draw a line, and the number that stands for `@` in it."""
    return st.tuples(_lines(*lines), numbers).map(lambda it: it[0].replace("@", str(it[1])))


link_kinds = st.one_of(
    links.map(lambda link: _on_link(link, f"link del {link}")),
    links.map(lambda link: _on_link(link, f"link set {link} down")),
    links.map(lambda link: _on_link(link, f"link set {link} down name moved0")),
    st.tuples(links, st.integers(1280, 1360)).map(
        lambda it: _on_link(it[0], f"link set {it[0]} mtu {it[1]}")
    ),
    st.tuples(st.sampled_from(sorted(LINKS.keys() - {"meshnet0"})), macs).map(
        lambda it: _on_link(it[0], f"link set {it[0]} address {it[1]}")
    ),
    _lines(
        f"{IN} ip link set vx0 nomaster",
        f"{IN} ip link set $port nomaster",
        f"{IN} ip link set vx0 alias other",
        f"{IN} ip link set $port alias other",
        f"{IN} bridge link set dev vx0 learning on",
        f"{IN} bridge link set dev $port learning on",
        f"{IN} bridge link set dev $port locked off",
    ),
)
address_kinds = st.one_of(
    links.map(lambda link: _on_link(link, f"addr flush dev {link}")),
    st.tuples(links.filter(lambda link: link not in ("vx0", "$port")), numbers).map(
        lambda it: _on_link(it[0], f"addr add 10.213.200.{it[1]}/32 dev {it[0]}")
    ),
    _numbered(
        "ip addr flush dev meshnet0; ip addr add 10.213.201.@/32 dev meshnet0",
        f"{IN} ip addr add fd00:99::@/64 dev br0",
        f"{INSIDE} ip addr flush dev $interface",
    ),
)
peer_kinds = _numbered(
    "wg set meshnet0 peer $peer remove",
    f"wg set meshnet0 peer {STRANGER} allowed-ips 10.213.202.@/32",
    f"wg set meshnet0 peer {STRANGER} allowed-ips $vtep/32,10.213.202.@/32",
    "wg set meshnet0 peer $peer allowed-ips 10.@.0.0/16",
    "wg set meshnet0 peer $peer endpoint 192.0.2.@:4@",
    "wg set meshnet0 peer $peer persistent-keepalive @",
    "wg genpsk >/run/psk; wg set meshnet0 peer $peer preshared-key /run/psk",
    "wg genkey >/run/key; wg set meshnet0 private-key /run/key",
    "wg set meshnet0 listen-port 51@",
    "wg set meshnet0 fwmark @",
)
entry_kinds = _numbered(
    f"{IN} bridge fdb del $mac dev vx0 dst $vtep",
    f"{IN} bridge fdb replace $mac dev vx0 dst 192.0.2.@",
    f"{IN} bridge fdb add 02:00:00:00:98:01 dev vx0 dst 192.0.2.@",
    f"{IN} bridge fdb append 00:00:00:00:00:00 dev vx0 dst 192.0.2.@",
    f"{IN} bridge fdb del $own_mac dev $port master",
    f"{IN} bridge fdb add 02:00:00:00:97:01 dev $port master static",
    f"{IN} ip neigh del $address dev vx0",
    f"{IN} ip neigh del $address6 dev vx0",
    f"{IN} ip neigh replace $address lladdr 02:00:00:00:96:01 dev vx0",
    f"{IN} ip neigh add 10.214.99.@ lladdr 02:00:00:00:95:01 dev vx0",
)
route_kinds = _numbered(
    "ip route flush proto 109; ip -6 route flush proto 109",
    "ip route add 10.@.0.0/16 dev meshnet0 proto 109",
    "ip -6 route add fd00:@::/64 dev meshnet0 proto 109",
    "ip route replace $prefix dev eth0 proto 109",
    "ip route add 10.213.@.0/24 dev eth0 proto 109",
)
guard_kinds = _numbered(
    "nft delete table inet meshnet",
    "nft flush table inet meshnet",
    "nft insert rule inet meshnet output udp dport @ accept",
    "nft insert rule inet meshnet forward accept",
    "nft add element inet meshnet ports { @ }",
    "nft delete element inet meshnet ports { 14789 }",
    f"{IN} nft flush ruleset",
    f"{IN} nft delete table bridge meshnet",
    f"{IN} nft flush table bridge meshnet",
    f"{IN} nft add chain bridge meshnet strange",
    "nft add chain inet meshnet strange { type filter hook input priority 0 \\; policy drop \\; }",
)
namespace_kinds = _lines(
    "ip netns del meshnet-default",
    f"umount -l {NAMED}",
    f"umount -l {NAMED}; rm {NAMED}; ip netns add meshnet-default",
)
setting_kinds = st.sampled_from(sorted(SETTINGS)).map(
    lambda it: f"{SETTINGS[it]} sysctl -q -w net/{it}".strip()
)

tamperings = st.one_of(
    link_kinds,
    address_kinds,
    peer_kinds,
    entry_kinds,
    route_kinds,
    guard_kinds,
    namespace_kinds,
    setting_kinds,
)


def words_of(a: Box, b: Box) -> str:
    """Return the shell words: a is c1 on the node tampered with, b a container elsewhere."""
    values = {
        "mac": b.given.mac,
        "own_mac": a.given.mac,
        "vtep": b.node.address4,
        "address": b.address4,
        "address6": b.address6,
        "prefix": "10.213.0.0/16",
        "peer": b.node.status().public_key,
        "port": "p" + a.given.mac.replace(":", ""),
        "interface": a.given.interface,
        "container": a.container.netns_path,
    }
    return "".join(f"{name}='{value}'; " for name, value in values.items())


LOOK_HOST = """
wg showconf meshnet0
ip -o -d link; ip -o addr; ip route show table all; ip -6 route show table all; ip rule; ip -6 rule
nft list ruleset; ip netns list; wg show wgf allowed-ips
sysctl -a -r 'net.ipv[46].conf.(meshnet0|mesh-default|foreign0).(disable_ipv6|accept_r.*|promote.*)'
"""
LOOK_NETWORK = """
ip -o -d link; ip -o addr; ip route; ip -6 route; bridge fdb; ip neigh show nud permanent
nft list ruleset
sysctl -a -r 'net.ipv[46].(ip_forward|conf.*.(forwarding|disable_ipv6|accept_r.*|addr_gen_mode))'
"""
LOOK_CONTAINER = """
ip -o -d link; ip -o addr; ip route; ip -6 route
sysctl -a -r 'net.ipv6.conf.mesh.*.(disable_ipv6|accept_ra|addr_gen_mode)'
"""
FOREIGN = f"""
ip link add foreign0 type bridge; ip addr add 203.0.113.1/24 dev foreign0; ip link set foreign0 up
ip link set foreign0 alias somebodys; ip route add 10.98.0.0/16 dev foreign0 proto 110
ip rule add fwmark 77 table 1077; ip route add default dev foreign0 table 1077
ip link add wgf type wireguard; wg set wgf peer {STRANGER} allowed-ips 10.97.0.0/16
nft add table inet foreign; nft add chain inet foreign c; nft add rule inet foreign c accept
ip netns add foreign; ip -n foreign link add inner0 type bridge
"""
"""Of everything that we have, something that is somebody else's."""

NUMBERS = re.compile(r"port_id \S+ port_no \S+ designated_port \d+")
"""What the ports of a bridge are numbered by, in the order they came."""
CHOSEN = re.compile(r"p0a\w+@.*link/ether (\S+)")
"""The MAC that the kernel chooses for the bridge's end of a pair."""


def look(a: Box) -> str:
    """Return everything there is on a's node, its network and in its container, as text.

    CommandFailed when something that is ours cannot be looked at, because it is not there.
    """
    script = "set -eu"
    for where, words in (("", LOOK_HOST), (IN, LOOK_NETWORK), (_inside(a), LOOK_CONTAINER)):
        script += f"\necho '== {where}'; {where} sh -euc \"$(cat <<'END'\n{words}\nEND\n)\""
    text = a.node.host.shell(script)
    return "\n".join("\n".join(_stable(part)) for part in text.split("\n== "))


def _inside(a: Box) -> str:
    return INSIDE.replace("$container", a.container.netns_path)


def _stable(text: str) -> list[str]:
    """Return the lines sorted, peers of WireGuard in one line each, without what is by chance.

    Link-local addresses are IPv6's own affair: one that it made stays until its link goes.
    """
    for mac in set(CHOSEN.findall(text)):
        text = text.replace(mac, "chosen")
    text = re.sub(r"(scope \w+ \w+):\d+\\", r"\1\\", text)  # a label, after a rename
    text = re.sub(r"(?<=AllowedIPs = ).*", lambda ips: " ".join(sorted(ips[0].split(", "))), text)
    text = re.sub(r"\n(?!\[|\d|\n)(?=[A-Z]\w+ = )", "; ", text)
    lines = (UNSTABLE.sub("", NUMBERS.sub("", line)).split() for line in text.splitlines())
    rows = (" ".join(words) for words in lines if words)
    return sorted(row for row in rows if "fe80::" not in row)


def looks(a: Box, before: str) -> bool:
    """Say whether all is as it was."""
    try:
        return look(a) == before
    except CommandFailed:
        return False
