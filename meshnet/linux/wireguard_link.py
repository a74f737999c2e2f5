"""Driver. The links under WireGuard devices, by rtnetlink: make, mark, look up, delete.

The mark is the link's alias (`ip link` shows it). rtnetlink ignores an alias given on creation,
so marking is a second message; who dies in between leaves a virgin device, see `wireguard_base`.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from meshnet.errors import KernelRefused
from meshnet.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    attribute,
    attributes,
    message,
    nested,
)
from meshnet.plan.state import ALIAS

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_IFALIAS = 3, 4, 18, 20
_IFLA_INFO_KIND = 1
_IFF_UP = 1

_IFINFOMSG = struct.Struct("=BxHiII")
_U32 = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Link:
    """A link: its kind as the kernel names it (`tun` for wireguard-go), its mark, whether up."""

    kind: str
    alias: str
    mtu: int
    up: bool

    @property
    def is_ours(self) -> bool:
        return self.alias == ALIAS


def find_link(name: str) -> Link | None:
    """Return the link of this name in the current network namespace, or None."""
    try:
        with Netlink() as netlink:
            query = message(_RTM_GETLINK, 0, _header() + _name(name))
            (answer,) = netlink.ask(query, f"look up link {name}")
    except KernelRefused as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return parse_link(answer)


def parse_link(body: bytes) -> Link:
    """Parse an RTM_NEWLINK body; raise KernelRefused with EBADMSG for anything else."""
    try:
        _, _, _, flags, _ = _IFINFOMSG.unpack_from(body)
        values = attributes(body[_IFINFOMSG.size :])
        info = attributes(values.get(_IFLA_LINKINFO, b""))
        (mtu,) = _U32.unpack(values.get(_IFLA_MTU, bytes(4)))
    except struct.error as error:
        raise KernelRefused(f"malformed link: {error}", errno.EBADMSG) from error
    kind, alias = info.get(_IFLA_INFO_KIND, b""), values.get(_IFLA_IFALIAS, b"")
    return Link(_text(kind), _text(alias), mtu, bool(flags & _IFF_UP))


def make_link(name: str, kind: str) -> None:
    """Make a link, down and unmarked; KernelRefused with EEXIST when there is one."""
    info = nested(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, kind.encode()))
    body = _header() + _name(name) + info
    _request(message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body), f"create link {name}")


def mark_link(name: str, mtu: int) -> None:
    """Put our mark on a link and set its MTU."""
    alias = attribute(_IFLA_IFALIAS, ALIAS.encode())
    body = _header() + _name(name) + attribute(_IFLA_MTU, _U32.pack(mtu)) + alias
    _request(message(_RTM_NEWLINK, 0, body), f"set alias and mtu {mtu} of link {name}")


def delete_link(name: str) -> None:
    """Delete a link; none is fine, too."""
    try:
        _request(message(_RTM_DELLINK, 0, _header() + _name(name)), f"delete link {name}")
    except KernelRefused as error:
        if error.errno != errno.ENODEV:
            raise


def _header() -> bytes:
    return _IFINFOMSG.pack(0, 0, 0, 0, 0)


def _name(name: str) -> bytes:
    return attribute(_IFLA_IFNAME, name.encode() + b"\0")


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _request(one: bytes, what: str) -> None:
    with Netlink() as netlink:
        netlink.request([one], [what])
