"""Pure. What a node has attached, as it was asked for: intent, kept on disk, beside the records.

An `Attachment` is what the mesh is told; a `LocalAttachment` is what the node must know to make it.
"""

from __future__ import annotations

import msgspec


class LocalInstance(msgspec.Struct, frozen=True, kw_only=True):
    """A service instance behind a local attachment, as it was asked for."""

    service: str
    ports: tuple[tuple[int, str, str], ...] = ()
    healthy: bool = True
    weight: int = 1
    metadata: dict[str, str] = {}


class LocalAttachment(msgspec.Struct, frozen=True, kw_only=True):
    """An attachment of this node. `boot` tells whether `inode` still means the same namespace.

    `owner` is the key of whoever made it, such as a container engine; no two have the same.
    """

    network: str
    name: str
    addresses: tuple[str, ...]
    mac: str
    interface: str
    netns: str = ""
    inode: int = 0
    boot: str = ""
    host: bool = False
    instances: tuple[LocalInstance, ...] = ()
    owner: str = ""
