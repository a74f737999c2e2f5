"""Driver. What a port may send from: an nft table in each network's namespace, on the bridge.

    frame of a port       let in when
      IPv4, IPv6          (port, source MAC, source address) is the port's own
      ARP                 the sender's MAC and address are the port's own, or the address is 0.0.0.0
      ND                  what is advertised is the port's own; never as a router
      anything else       never
    frame off vx0         neither ARP nor ND, since vx0 answers these itself, and its source is no
                          attachment of this host

So a container cannot speak as another one, nor another node as one of this host's. The MAC alone is
held by the bridge (a locked port), which is the second lock on the same door where the kernel can.

Context: netfilter sees each frame that enters the bridge. Choice: three lookups by hash, over sets
of (port, MAC, address), filled before a port carries frames and changed in one transaction. Price:
the lookup for every frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from meshnet.linux import nft_elements
from meshnet.linux.nft import Listing, Table, elements_of, is_as_made
from meshnet.model.addresses import Address, Interface
from meshnet.plan.state import NFT_TABLE, VXLAN, Port

Elements = frozenset[tuple[str, str]]
"""(Set, element), both as nft reads them."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a port may send from. A MAC of '' is none: the sets have several for it."""

    mac: str
    addresses: frozenset[Address]


Grants = dict[str, Grant]
"""By port."""

_NONE = Grant("", frozenset())

_TEMPLATE = """\
table bridge {table} {{
    set own4 {{ type ifname . ether_addr . ipv4_addr; }}
    set own6 {{ type ifname . ether_addr . ipv6_addr; }}
    set told6 {{ typeof iifname . ether saddr . @th,64,128; }}
    set here4 {{ type ipv4_addr; }}
    set here6 {{ type ipv6_addr; }}
    chain ingress {{
        type filter hook prerouting priority -300; policy accept;
        iifname "{vxlan}" goto remote
        ether type ip iifname . ether saddr . ip saddr @own4 accept
        meta l4proto ipv6-icmp jump discovery
        ether type ip6 iifname . ether saddr . ip6 saddr @own6 accept
        arp saddr ip 0.0.0.0 accept
        ether type arp iifname . arp saddr ether . arp saddr ip @own4 accept
        drop
    }}
    chain discovery {{
        icmpv6 type {{ nd-router-advert, nd-redirect }} drop
        icmpv6 type nd-neighbor-advert @th,64,16 & 0xffc0 != 0xfe80 \
iifname . ether saddr . @th,64,128 != @told6 drop
        ip6 saddr {{ ::, fe80::/10 }} icmpv6 type {{ nd-router-solicit, nd-neighbor-solicit, \
nd-neighbor-advert, mld-listener-query, mld-listener-report, mld-listener-done, \
mld2-listener-report }} accept
    }}
    chain remote {{
        meta pkttype host accept
        ip saddr @here4 drop
        ip6 saddr @here6 drop
        ether type arp drop
        icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-neighbor-solicit, \
nd-neighbor-advert, nd-redirect }} drop
    }}
    chain seal {{
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was found at a generation. `ours`: the rules are those we made."""

    generation: int | None
    ours: bool
    elements: Elements
    grants: Grants


class SourceGuard:
    """The table in one network's namespace (`home`, a descriptor)."""

    def __init__(self, home: int) -> None:
        self._home = home
        self._table = Table(home, "bridge", NFT_TABLE)
        self._seen: _Seen | None = None

    @property
    def grants(self) -> Grants:
        """What each port may send from now, ports that are gone included."""
        return self._look().grants

    def is_whole(self, gateways: Iterable[Interface]) -> bool:
        """Say whether the rules are those we made, and the sets hold the grants and no more."""
        seen = self._look()
        return seen.ours and seen.elements == _elements(seen.grants, gateways)

    def build(self, gateways: Iterable[Interface], ports: Mapping[str, Port]) -> None:
        """Make the table, or mend it in one step; ports not mentioned keep what they have."""
        seen = self._look()
        grants = seen.grants | {name: _grant(port) for name, port in ports.items()}
        wanted = _elements(grants, gateways)
        if not seen.ours or seen.elements != wanted:
            text = _TEMPLATE.format(table=NFT_TABLE, vxlan=VXLAN)
            self._table.replace(_TEMPLATE, text + self._lines("add", wanted), elements=False)

    def allow(self, name: str, port: Port) -> None:
        """Let in what this port may send, and no more, from now on."""
        self._change({name: _grant(port)})

    def forget(self, names: Iterable[str]) -> None:
        """Let nothing in from ports of these names; none is fine, too."""
        self._change(dict.fromkeys(names, _NONE))

    def close(self) -> None:
        """Let go of the kernel; nothing in it changes."""
        self._table.close()

    def _change(self, wanted: Grants) -> None:
        """Grant these ports what is wanted for them; of the others there may be hundreds."""
        seen = self._look()
        before = {name: seen.grants[name] for name in wanted if name in seen.grants}
        others = {name: grant for name, grant in seen.grants.items() if name not in wanted}
        had, after = _elements(before, ()), _elements(wanted, ())
        deleted = (had - after) & seen.elements
        deleted = deleted and deleted - _here(others)
        added = after - seen.elements
        if deleted or added:
            netlink = self._table.netlink
            nft_elements.change(netlink, NFT_TABLE, _keys(deleted), _keys(added))
            grants = others | {name: grant for name, grant in wanted.items() if grant.addresses}
            self._remember(seen, (seen.elements - deleted) | added, grants)

    def _remember(self, seen: _Seen, elements: Elements, grants: Grants) -> None:
        """Spare the next look when the ruleset's last change was ours and no other came between."""
        generation = self._table.generation()
        if seen.generation is not None and generation == seen.generation + 1:
            self._seen = replace(seen, generation=generation, elements=elements, grants=grants)

    def _lines(self, verb: str, elements: Elements) -> str:
        place = self._table.place
        return "".join(
            f"{verb} element {place} {kind} {{ {one} }}\n" for kind, one in sorted(elements)
        )

    def _look(self) -> _Seen:
        generation = self._table.generation()
        if self._seen is None or generation is None or self._seen.generation != generation:
            listed = self._table.listing()
            ours = listed is not None and is_as_made(_TEMPLATE, listed, elements=False)
            elements = _parse(listed or [])
            self._seen = _Seen(generation, ours, elements, _grants(elements))
        return self._seen


def _grant(port: Port) -> Grant:
    return Grant(port.mac, port.sources)


def _elements(grants: Grants, gateways: Iterable[Interface]) -> Elements:
    """Return what the sets hold for these grants and gateways."""
    found = {(f"here{one.version}", str(one.ip)) for one in gateways} | _here(grants)
    for name, grant in grants.items():
        for one in grant.addresses:
            found.add((f"own{one.version}", f'"{name}" . {grant.mac} . {one}'))
            if one.version == 6:
                found.add(("told6", f'"{name}" . {grant.mac} . {int(one):#x}'))
    return frozenset(found)


def _here(grants: Grants) -> set[tuple[str, str]]:
    """Return the elements that do not tell which port has an address."""
    return {
        (f"here{one.version}", str(one)) for grant in grants.values() for one in grant.addresses
    }


def _keys(elements: Elements) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for kind, element in elements:
        found.setdefault(kind, []).append(nft_elements.key_of(element))
    return found


def _grants(elements: Elements) -> Grants:
    found: Grants = {}
    for kind, element in elements:
        if kind.startswith("own"):
            name, mac, address = element.replace('"', "").split(" . ")
            known = found.get(name, Grant(mac, frozenset()))
            same = mac if mac == known.mac else ""
            found[name] = Grant(same, known.addresses | {ip_address(address)})
    return found


def _parse(listed: Listing) -> Elements:
    return frozenset(
        (kind, _text(element)) for kind, found in elements_of(listed).items() for element in found
    )


def _text(element: Any) -> str:
    """Return an element as `_elements` writes it."""
    if not isinstance(element, dict):
        return str(element)
    name, mac, last = element["concat"]
    return f'"{name}" . {mac} . {last}'
