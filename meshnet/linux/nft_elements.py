"""Driver. Elements of nft sets, changed in one transaction of netlink.

What changes with every container goes this way: starting nft takes longer than all else that is
done for a port. Sets and rules are made by nft, whose language one can read.

    batch begin │ DELSETELEM … │ NEWSETELEM … │ batch end        all or nothing

Only the last change asks for an answer, as older kernels give none to the end of a batch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from meshnet.linux.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    Netlink,
    attribute,
    message,
    nested,
)

BRIDGE = 7
"""The family of tables that see bridged frames."""

_NFTABLES = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_ELEMENTS, _DELETE_ELEMENTS = _NFTABLES << 8 | 12, _NFTABLES << 8 | 14
_TABLE, _SET, _ELEMENTS = 1, 2, 3
_ELEMENT, _KEY, _VALUE = 1, 1, 1
_NFGENMSG = struct.Struct(">BBH")
_IFNAME_BYTES = 16

Keys = Mapping[str, Iterable[bytes]]
"""Keys by the name of their set."""


def change(netlink: Netlink, table: str, deleted: Keys, added: Keys) -> None:
    """Change a bridge table's sets by a netfilter socket; KernelRefused when none was changed."""
    kinds = ((_DELETE_ELEMENTS, 0, deleted), (_NEW_ELEMENTS, NLM_F_CREATE, added))
    bodies = [
        (kind, flags, _body(table, name, keys))
        for kind, flags, by_set in kinds
        for name, keys in sorted(by_set.items())
    ]
    if not bodies:
        return
    *rest, (kind, flags, last) = bodies
    changes = [message(*one) for one in rest] + [message(kind, flags | NLM_F_ACK, last)]
    around = _NFGENMSG.pack(0, 0, _NFTABLES)
    begin, end = message(_BATCH_BEGIN, 0, around), message(_BATCH_END, 0, around)
    netlink.transact([begin, *changes, end], f"change elements of {table}")


def _body(table: str, name: str, keys: Iterable[bytes]) -> bytes:
    elements = (nested(_ELEMENT, nested(_KEY, attribute(_VALUE, key))) for key in sorted(keys))
    return (
        _NFGENMSG.pack(BRIDGE, 0, 0)
        + attribute(_TABLE, table.encode() + b"\0")
        + attribute(_SET, name.encode() + b"\0")
        + nested(_ELEMENTS, *elements)
    )


def key_of(element: str) -> bytes:
    """Return the key of an element as nft writes it, its parts padded to registers of four bytes.

    A part is an interface in quotes, a MAC, an address, or a number of 128 bits.
    """
    return b"".join(_part(part) for part in element.split(" . "))


def _part(text: str) -> bytes:
    if text.startswith('"'):
        return text.strip('"').encode().ljust(_IFNAME_BYTES, b"\0")
    if text.startswith("0x"):
        return int(text, 16).to_bytes(16, "big")
    if text.count(":") == 5 and "::" not in text and len(text) == 17:
        return bytes.fromhex(text.replace(":", "")) + b"\0\0"
    return ip_address(text).packed
