"""Driver. The guard: one nft table of ours that closes what a missing route would open.

Routes and addresses say where packets go; the guard says where they must never go, so that a route
that is gone for a moment makes packets stop and not leave in clear:

* VXLAN of ours (by its UDP port) leaves and arrives by the tunnel only.
* The mesh's prefixes, as source or destination, are spoken of on the tunnel and loopback only.
* Our resolver's address is spoken to by this host and from its bridges, where engines have their
  containers; never from outside, where anybody could make a route to it.
* Nothing is forwarded between the host's interfaces on our networks, or the tunnel, and elsewhere:
  a container engine that turns on forwarding must not turn a host into a router of our networks.
  Left alone is what the host's own rules redirect (DNAT): a port that somebody published.

The table is replaced in one transaction. What it is for can be read from its sets. That its rules
are those we made is known by two digests in the comment of a rule: of the text that was applied,
and of what nft listed right after. So a rule that somebody adds, changes or removes shows, and so
does a table made by another version. nft itself runs only when the kernel's ruleset generation is
another one than at the last look.
"""

from __future__ import annotations

import errno
import hashlib
import json
import struct
import subprocess
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

from meshnet.errors import KernelRefused, Unavailable
from meshnet.linux.links import GROUP
from meshnet.linux.netlink import Netlink, attributes, message
from meshnet.linux.netns import inside
from meshnet.model.addresses import RESOLVER, Prefix
from meshnet.plan.state import NFT_TABLE, Guard

NETLINK_NETFILTER = 12

FORGED = Guard("", frozenset(), frozenset())
"""What a table reads as that is not as we left it."""

_GET_GENERATION = 10 << 8 | 16
_GENERATION_ID = 1
_NFGENMSG = struct.Struct("=BBH")

_TEMPLATE = """\
table inet {table}
delete table inet {table}
table inet {table} {{
    set tunnel {{ type ifname; elements = {{ "{tunnel}" }} }}
    set ports {{ type inet_service; {ports} }}
    set mesh4 {{ type ipv4_addr; flags interval; {mesh4} }}
    set mesh6 {{ type ipv6_addr; flags interval; {mesh6} }}
    chain outside {{
        udp dport @ports drop
        ip daddr @mesh4 drop
        ip6 daddr @mesh6 drop
        ip saddr @mesh4 drop
        ip6 saddr @mesh6 drop
    }}
    chain input {{
        type filter hook input priority filter - 5; policy accept;
        iifname "lo" accept
        iifname @tunnel accept
        jump outside
        ip daddr {resolver} meta iifkind "bridge" accept
        ip daddr {resolver} drop
    }}
    chain output {{
        type filter hook output priority filter - 5; policy accept;
        oifname "lo" accept
        oifname @tunnel accept
        udp dport @ports drop
        ip daddr @mesh4 drop
        ip6 daddr @mesh6 drop
    }}
    chain forward {{
        type filter hook forward priority filter - 5; policy accept;
        ct status dnat accept
        iifname @tunnel drop
        oifname @tunnel drop
        iifgroup {group} drop
        oifgroup {group} drop
    }}
    chain seal {{
    }}
}}
"""


class GuardTable:
    """Our table in one host's namespace."""

    def __init__(self, home: int) -> None:
        self._home = home
        self._seen: tuple[int, Guard | None] | None = None

    def read(self) -> Guard | None:
        """Return what the table guards, FORGED when it is not as we left it, None when absent."""
        generation = self._generation()
        if self._seen is None or generation is None or self._seen[0] != generation:
            found = self._look()
            self._seen = None if generation is None else (generation, found)
            return found
        return self._seen[1]

    def set(self, guard: Guard) -> None:
        """Replace the table by one for `guard`."""
        text = render(guard)
        self._nft(["-f", "-"], text)
        comment = f"meshnet {_digest(_TEMPLATE)} {_digest(_normal(self._list() or []))}"
        mark = f'add rule inet {NFT_TABLE} seal return comment "{comment}"'
        self._nft(["-f", "-"], mark)

    def remove(self) -> bool:
        """Remove the table; return whether there was one."""
        if self._list() is None:
            return False
        self._nft(["-f", "-"], f"table inet {NFT_TABLE}\ndelete table inet {NFT_TABLE}\n")
        return True

    def _look(self) -> Guard | None:
        listed = self._list()
        if listed is None:
            return None
        comments = [item["rule"].get("comment", "") for item in listed if _is_mark(item)]
        wanted = f"meshnet {_digest(_TEMPLATE)} {_digest(_normal(listed))}"
        return _guard(listed) if comments == [wanted] else FORGED

    def _list(self) -> list[dict[str, Any]] | None:
        """Return nft's listing of the table, or None when there is none."""
        done = self._run(["-j", "list", "table", "inet", NFT_TABLE], "")
        if done.returncode:
            if "No such file or directory" in done.stderr:
                return None
            raise _refused(done.stderr)
        items: list[dict[str, Any]] = json.loads(done.stdout)["nftables"]
        return items

    def _nft(self, arguments: Sequence[str], text: str) -> None:
        done = self._run(arguments, text)
        if done.returncode:
            raise _refused(done.stderr)

    def _run(self, arguments: Sequence[str], text: str) -> subprocess.CompletedProcess[str]:
        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["nft", *arguments],
                input=text,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
                env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            )

        try:
            return inside(self._home, "run nft", run)
        except subprocess.TimeoutExpired as error:
            raise KernelRefused("nft does not end", errno.ETIMEDOUT) from error
        except KernelRefused as error:
            if error.errno == errno.ENOENT:
                raise Unavailable("nft is not installed", "Install nftables.") from error
            raise

    def _generation(self) -> int | None:
        """Return the number of the kernel's ruleset, which every change raises."""
        try:
            with Netlink(NETLINK_NETFILTER, netns=self._home) as netlink:
                query = message(_GET_GENERATION, 0, _NFGENMSG.pack(0, 0, 0))
                (body,) = netlink.ask(query, "ask for the nft generation")
        except (KernelRefused, ValueError):
            return None
        data = attributes(body[_NFGENMSG.size :]).get(_GENERATION_ID, b"")
        return int.from_bytes(data, "big") or None


def render(guard: Guard) -> str:
    """Return the transaction that replaces the table, as nft reads it."""
    four = [str(one) for one in guard.mesh_prefixes if one.version == 4]
    six = [str(one) for one in guard.mesh_prefixes if one.version == 6]
    return _TEMPLATE.format(
        table=NFT_TABLE,
        tunnel=guard.tunnel,
        ports=_elements(str(port) for port in guard.overlay_ports),
        resolver=RESOLVER,
        mesh4=_elements(four),
        mesh6=_elements(six),
        group=GROUP,
    )


def _elements(values: Any) -> str:
    joined = ", ".join(sorted(values))
    return f"elements = {{ {joined} }}" if joined else ""


def _is_mark(item: dict[str, Any]) -> bool:
    return "rule" in item and item["rule"]["chain"] == "seal"


def _normal(listed: list[dict[str, Any]]) -> str:
    """Return the listing without what changes by itself: handles, version, and the mark."""
    kept = [item for item in listed if "metainfo" not in item and not _is_mark(item)]
    return json.dumps(_without_handles(kept), sort_keys=True)


def _without_handles(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_handles(one) for key, one in value.items() if key != "handle"}
    if isinstance(value, list):
        return [_without_handles(one) for one in value]
    return value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _guard(listed: list[dict[str, Any]]) -> Guard:
    """Return what the sets say."""
    sets = {item["set"]["name"]: item["set"].get("elem", []) for item in listed if "set" in item}
    prefixes = [_prefix(element) for name in ("mesh4", "mesh6") for element in sets[name]]
    return Guard(
        tunnel=str(sets["tunnel"][0]),
        mesh_prefixes=frozenset(prefixes),
        overlay_ports=frozenset(int(port) for port in sets["ports"]),
    )


def _prefix(element: Any) -> Prefix:
    if isinstance(element, str):
        return ip_network(element)
    prefix = element["prefix"]
    return ip_network(f"{prefix['addr']}/{prefix['len']}")


def _refused(words: str) -> KernelRefused:
    reason = words.strip().splitlines()[0] if words.strip() else "no reason given"
    code = errno.EPERM if "Operation not permitted" in words else errno.EINVAL
    hint = "Run as root." if code == errno.EPERM else ""
    return KernelRefused(f"nft: {reason}", code, hint)
