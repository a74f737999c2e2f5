"""Driver. systemd-resolved: which of this host's questions go to the node's own DNS server.

    SetLinkDNS          the node's mesh addresses, for the link of the tunnel
    SetLinkDomains      zone and reverse zones, for routing: nothing else is asked there
    SetLinkDefaultRoute no
    SetLinkDNSSEC       no: the root signs that there is no such zone as ours
    SetLinkLLMNR, SetLinkMulticastDNS    no: nobody listens for multicast in the tunnel

All of it belongs to the link and goes with it; a restart of resolved keeps it. Source:
org.freedesktop.resolve1(5). Carried by `busctl`, which comes with systemd and so is there wherever
resolved is; a D-Bus library in the agent would hold 4 MB for a question every half minute.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from meshnet.errors import Unavailable
from meshnet.model.addresses import Address

BUS = Path("/run/dbus/system_bus_socket")
STUB_CONF = Path("/run/systemd/resolve/stub-resolv.conf")
"""Written by resolved when it starts."""
UPLINK_CONF = Path("/run/systemd/resolve/resolv.conf")
"""Where resolved names the servers behind its stub."""
STUB = "127.0.0.53"

TIME_LIMIT = 5.0

_SERVICE = "org.freedesktop.resolve1"
_MANAGER = (_SERVICE, "/org/freedesktop/resolve1", f"{_SERVICE}.Manager")
MULTICAST = ("LLMNR", "MulticastDNS")
_FAMILY = {4: "2", 6: "10"}


@dataclass(frozen=True, slots=True)
class LinkDns:
    """Servers of a link and the domains, without trailing dot, that are routed to them."""

    servers: tuple[Address, ...] = ()
    domains: tuple[str, ...] = ()


def is_running() -> bool:
    """Tell whether this host has a resolved to talk to; none is started by the question."""
    return BUS.exists() and STUB_CONF.exists()


def read(index: int) -> LinkDns:
    """Return what resolved knows of link `index`; Unavailable when it does not answer.

    A link that also takes names outside its domains, whose answers are validated, or where names
    are asked for by multicast is not as `route` leaves it: it is returned empty, to be set anew.
    """
    (path,) = json.loads(_call("GetLink", "i", str(index)))["data"]
    wanted = ("DNS", "Domains", "DefaultRoute", "DNSSEC", *MULTICAST)
    lines = _busctl("get-property", _SERVICE, path, f"{_SERVICE}.Link", *wanted).splitlines()
    servers, domains, default, *off = (json.loads(line)["data"] for line in lines)
    routing = tuple(name for name, only in domains if only)
    if default or {*off} != {"no"} or len(routing) != len(domains):
        return LinkDns()
    return LinkDns(tuple(ip_address(bytes(raw)) for _, raw in servers), routing)


def route(index: int, wish: LinkDns) -> bool:
    """Have resolved ask `wish.servers` for `wish.domains`; return whether that was news to it."""
    if read(index) == wish:
        return False
    link = str(index)
    servers = [
        word
        for server in wish.servers
        for word in (
            _FAMILY[server.version],
            str(len(server.packed)),
            *(str(byte) for byte in server.packed),
        )
    ]
    domains = [word for name in wish.domains for word in (name, "true")]
    _call("SetLinkDNS", "ia(iay)", link, str(len(wish.servers)), *servers)
    _call("SetLinkDomains", "ia(sb)", link, str(len(wish.domains)), *domains)
    _call("SetLinkDefaultRoute", "ib", link, "false")
    for method in ("SetLinkDNSSEC", "SetLinkLLMNR", "SetLinkMulticastDNS"):
        _call(method, "is", link, "no")
    return True


def revert(index: int) -> None:
    """Have resolved forget all it was told about link `index`."""
    _call("RevertLink", "i", str(index))


def _call(method: str, signature: str, *words: str) -> str:
    return _busctl("call", *_MANAGER, method, signature, *words)


def _busctl(*words: str) -> str:
    command = ["busctl", "--system", "--json=short", *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"systemd-resolved cannot be asked: {error}") from error
    if done.returncode:
        raise Unavailable(f"systemd-resolved refuses {words[0]}: {done.stderr.strip()}")
    return done.stdout
