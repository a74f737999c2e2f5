"""Driver. One nft table of ours in one namespace: replaced or changed by nft, known by its marks.

That a table's rules are those we made is known by two digests in the comment of a rule: of the text
it was made from, and of what nft listed right after. So a rule that somebody adds, changes or
removes shows, and so does a table made by another version. nft itself runs only when the kernel's
ruleset generation, which every change of the namespace raises, is another one than at the last
look.
"""

from __future__ import annotations

import errno
import hashlib
import json
import struct
import subprocess
from pathlib import Path
from typing import Any

from meshnet.errors import KernelRefused, Unavailable
from meshnet.linux.netlink import Netlink, attributes, hint_for, message
from meshnet.linux.netns import inside

NETLINK_NETFILTER = 12
SEAL = "seal"
"""The chain, in every table of ours, that holds the mark and nothing else."""

_LEGACY = ("ip_tables_names", "ip6_tables_names")
_GET_GENERATION = 10 << 8 | 16
_GENERATION_ID = 1
_NFGENMSG = struct.Struct("=BBH")

Listing = list[dict[str, Any]]


class Table:
    """A table by family and name in the namespace `home` (a descriptor)."""

    def __init__(self, home: int, family: str, name: str) -> None:
        self._home = home
        self._netlink: Netlink | None = None
        self.place = f"{family} {name}"

    @property
    def netlink(self) -> Netlink:
        """A socket kept open: when one is closed the kernel waits until it has freed all that was
        deleted lately, ten milliseconds and more."""
        if self._netlink is None:
            self._netlink = Netlink(NETLINK_NETFILTER, netns=self._home)
        return self._netlink

    def close(self) -> None:
        """Let go of the socket; nothing in the kernel changes."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def replace(self, template: str, text: str, *, elements: bool = True) -> None:
        """Put `text`, made from `template`, in place of the table in one transaction, and mark it.

        Without `elements` the mark says nothing of what is in the sets.
        """
        self.run(f"table {self.place}\ndelete table {self.place}\n{text}")
        comment = _mark(template, self.listing() or [], elements)
        self.run(f'add rule {self.place} {SEAL} return comment "{comment}"')

    def remove(self) -> bool:
        """Remove the table; return whether there was one: never where the kernel has no nft."""
        try:
            if self.listing() is None:
                return False
        except KernelRefused as error:
            if error.errno == errno.EPROTONOSUPPORT:
                return False
            raise
        self.run(f"table {self.place}\ndelete table {self.place}\n")
        return True

    def run(self, text: str) -> None:
        """Have nft do what `text` says, all or nothing."""
        done = self._nft(["-f", "-"], text)
        if done.returncode:
            raise _refused(done.stderr)

    def listing(self) -> Listing | None:
        """Return nft's listing of the table, or None when there is none."""
        done = self._nft(["-j", "list", "table", *self.place.split()], "")
        if done.returncode:
            if "No such file or directory" in done.stderr:
                return None
            raise _refused(done.stderr)
        items: Listing = json.loads(done.stdout)["nftables"]
        return items

    def has_nat(self) -> bool:
        """Say whether anybody in the namespace has a chain that translates addresses."""
        done = self._nft(["-j", "list", "chains"], "")
        if done.returncode:
            raise _refused(done.stderr)
        items: Listing = json.loads(done.stdout)["nftables"]
        return any(item.get("chain", {}).get("type") == "nat" for item in items)

    def has_legacy_nat(self) -> bool:
        """Say whether the namespace has such a table of the old iptables, which nft cannot see."""
        return inside(self._home, "look for old iptables", _has_legacy_nat)

    def generation(self) -> int | None:
        """Return the number of the namespace's ruleset; None where the kernel does not tell."""
        try:
            query = message(_GET_GENERATION, 0, _NFGENMSG.pack(0, 0, 0))
            (body,) = self.netlink.ask(query, "ask for the nft generation")
        except (KernelRefused, ValueError):
            return None
        data = attributes(body[_NFGENMSG.size :]).get(_GENERATION_ID, b"")
        return int.from_bytes(data, "big") or None

    def _nft(self, arguments: list[str], text: str) -> subprocess.CompletedProcess[str]:
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


def _has_legacy_nat() -> bool:
    lists = (Path(f"/proc/thread-self/net/{name}") for name in _LEGACY)
    return any("nat" in one.read_text().split() for one in lists if one.exists())


_CODES = {
    "Operation not permitted": errno.EPERM,
    "Protocol not supported": errno.EPROTONOSUPPORT,
    "Operation not supported": errno.EOPNOTSUPP,
}
"""What nft says, and the errno that it had."""


def is_as_made(template: str, listed: Listing, *, elements: bool = True) -> bool:
    """Say whether a table is as `replace` left it."""
    comments = [item["rule"].get("comment", "") for item in listed if _is_mark(item)]
    return comments == [_mark(template, listed, elements)]


def elements_of(listed: Listing) -> dict[str, list[Any]]:
    """Return the elements of each set, as nft writes them."""
    return {item["set"]["name"]: item["set"].get("elem", []) for item in listed if "set" in item}


def _mark(template: str, listed: Listing, elements: bool) -> str:
    return f"meshnet {_digest(template)} {_digest(_normal(listed, elements))}"


def _is_mark(item: dict[str, Any]) -> bool:
    return "rule" in item and item["rule"]["chain"] == SEAL


def _normal(listed: Listing, elements: bool) -> str:
    """Return the listing without what changes by itself: handles, version, and the mark."""
    kept = [item for item in listed if "metainfo" not in item and not _is_mark(item)]
    left_out = {"handle"} if elements else {"handle", "elem"}
    return json.dumps(_without(left_out, kept), sort_keys=True)


def _without(keys: set[str], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(keys, one) for key, one in value.items() if key not in keys}
    if isinstance(value, list):
        return [_without(keys, one) for one in value]
    return value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _refused(words: str) -> KernelRefused:
    reason = words.strip().splitlines()[0] if words.strip() else "no reason given"
    code = next((code for said, code in _CODES.items() if said in words), errno.EINVAL)
    return KernelRefused(f"nft: {reason}", code, hint_for(code))
