"""Driver. The guard: one nft table of ours that closes what a missing route would open.

Routes and addresses say where packets go; the guard says where they must never go, so that a route
that is gone for a moment makes packets stop and not leave in clear:

* VXLAN of ours (by its UDP port) leaves and arrives by the tunnel only.
* The mesh's prefixes, as source or destination, are spoken of on the tunnel and loopback only.
* The prefixes of networks the host itself is attached to are spoken to, and heard from, on our
  interfaces only (by their group): without them a default route would take what is for a network.
* Our resolver's address is spoken to by this host and from its bridges, where engines have their
  containers; never from outside, where anybody could make a route to it.
* Nothing is forwarded between the host's interfaces on our networks, or the tunnel, and elsewhere:
  a container engine that turns on forwarding must not turn a host into a router of our networks.
  Left alone is what the host's own rules redirect (DNAT): a port that somebody published.
* VXLAN in the tunnel is no connection: it has a source port for every flow inside, so a host with
  NAT would track each of them once more, and drop the next where its table is full.

The table is replaced in one transaction. What it is for can be read from its sets, and `nft` tells
whether its rules are those we made.

Context: every packet of the host passes these chains, and one that WireGuard has sealed carries
some 1,400 bytes, where one on our networks carries up to 64 kB. Choice: what WireGuard's port sends
and receives passes first and the tunnel's next, by values in the rules instead of look-ups in sets;
and redirected packets are asked for only where the host has NAT of its own, since a rule that looks
at connections makes the kernel track all of them. Price: a host that begins to redirect waits for
the next audit, and what has bound WireGuard's port while there is no WireGuard is let out.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

from meshnet.linux.links import GROUP
from meshnet.linux.nft import Listing, Table, elements_of, is_as_made
from meshnet.model.addresses import RESOLVER, Prefix
from meshnet.plan.state import NFT_TABLE, Guard

FORGED = Guard("", frozenset(), frozenset())
"""What a table reads as that is not as we left it."""

_REDIRECTED = "ct status dnat accept"

_SEALED_IN = "udp dport {port} accept"
_SEALED_OUT = "udp sport {port} udp dport != {{ {overlay} }} accept"

_TEMPLATE = """\
table inet {table} {{
    set sealed {{ type inet_service; {sealed} }}
    set tunnel {{ type ifname; elements = {{ "{tunnel}" }} }}
    set ports {{ type inet_service; {ports} }}
    set mesh4 {{ type ipv4_addr; flags interval; {mesh4} }}
    set mesh6 {{ type ipv6_addr; flags interval; {mesh6} }}
    set nets4 {{ type ipv4_addr; flags interval; {nets4} }}
    set nets6 {{ type ipv6_addr; flags interval; {nets6} }}
    chain outside {{
        udp dport @ports drop
        ip daddr @mesh4 drop
        ip6 daddr @mesh6 drop
        ip saddr @mesh4 drop
        ip6 saddr @mesh6 drop
    }}
    chain input {{
        type filter hook input priority filter - 5; policy accept;
        {sealed_in}
        iifname "{tunnel}" accept
        iifname "lo" accept
        jump outside
        jump posers
        ip daddr {resolver} meta iifkind "bridge" accept
        ip daddr {resolver} drop
    }}
    chain output {{
        type filter hook output priority filter - 5; policy accept;
        {sealed_out}
        oifname "{tunnel}" accept
        oifname "lo" accept
        udp dport @ports drop
        ip daddr @mesh4 drop
        ip6 daddr @mesh6 drop
        jump strays
    }}
    chain forward {{
        type filter hook forward priority filter - 5; policy accept;
        jump strays
        {redirected}
        iifname @tunnel drop
        oifname @tunnel drop
        iifgroup {group} drop
        oifgroup {group} drop
    }}
    chain strays {{
        oifgroup {group} return
        ip daddr @nets4 drop
        ip6 daddr @nets6 drop
    }}
    chain posers {{
        iifgroup {group} return
        ip saddr @nets4 drop
        ip6 saddr @nets6 drop
    }}
    {untracked}
    chain seal {{
    }}
}}
"""

_UNTRACKED = """\
chain early {{
        type filter hook prerouting priority raw; policy accept;
        iifname "{tunnel}" udp dport @ports notrack
    }}
    chain late {{
        type filter hook output priority raw; policy accept;
        oifname "{tunnel}" udp dport @ports notrack
    }}"""


class GuardTable:
    """Our table in one host's namespace."""

    def __init__(self, home: int) -> None:
        self._table = Table(home, "inet", NFT_TABLE)
        self._seen: tuple[int, bool, Guard | None] | None = None

    def read(self) -> Guard | None:
        """Return what the table guards, FORGED when it is not as we left it, None when absent."""
        now = self._table.generation(), self._table.has_legacy_nat()
        if self._seen is None or now[0] is None or self._seen[:2] != now:
            found = self._look()
            self._seen = None if now[0] is None else (now[0], now[1], found)
            return found
        return self._seen[2]

    def set(self, guard: Guard) -> None:
        """Replace the table by one for `guard`."""
        template = self._template()
        self._table.replace(template, render(template, guard))

    def remove(self) -> bool:
        """Remove the table; return whether there was one."""
        return self._table.remove()

    def close(self) -> None:
        """Let go of the kernel; nothing in it changes."""
        self._table.close()

    def _look(self) -> Guard | None:
        listed = self._table.listing()
        if listed is None:
            return None
        return _guard(listed) if is_as_made(self._template(), listed) else FORGED

    def _template(self) -> str:
        """Return what a table is made from on this host as it is now."""
        redirects = self._table.has_legacy_nat() or self._table.has_nat()
        redirected, untracked = (_REDIRECTED, _UNTRACKED) if redirects else ("", "")
        return _TEMPLATE.replace("{redirected}", redirected).replace("{untracked}", untracked)


def render(template: str, guard: Guard) -> str:
    """Return the table, as nft reads it."""
    sealed = guard.sealed_port and guard.overlay_ports
    overlay = ", ".join(map(str, sorted(guard.overlay_ports)))
    return template.format(
        table=NFT_TABLE,
        tunnel=guard.tunnel,
        sealed=_elements({guard.sealed_port} - {0}),
        sealed_in=_SEALED_IN.format(port=guard.sealed_port) if sealed else "",
        sealed_out=_SEALED_OUT.format(port=guard.sealed_port, overlay=overlay) if sealed else "",
        ports=_elements(guard.overlay_ports),
        resolver=RESOLVER,
        mesh4=_elements(one for one in guard.mesh_prefixes if one.version == 4),
        mesh6=_elements(one for one in guard.mesh_prefixes if one.version == 6),
        nets4=_elements(one for one in guard.networks if one.version == 4),
        nets6=_elements(one for one in guard.networks if one.version == 6),
        group=GROUP,
    )


def _elements(values: Iterable[object]) -> str:
    joined = ", ".join(sorted(map(str, values)))
    return f"elements = {{ {joined} }}" if joined else ""


def _guard(listed: Listing) -> Guard:
    """Return what the sets say."""
    sets = elements_of(listed)

    def prefixes(*names: str) -> frozenset[Prefix]:
        return frozenset(_prefix(element) for name in names for element in sets[name])

    return Guard(
        tunnel=str(sets["tunnel"][0]),
        mesh_prefixes=prefixes("mesh4", "mesh6"),
        overlay_ports=frozenset(int(port) for port in sets["ports"]),
        networks=prefixes("nets4", "nets6"),
        sealed_port=int(next(iter(sets["sealed"]), 0)),
    )


def _prefix(element: Any) -> Prefix:
    if isinstance(element, str):
        return ip_network(element)
    prefix = element["prefix"]
    return ip_network(f"{prefix['addr']}/{prefix['len']}")
