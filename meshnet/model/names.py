"""Pure. Names of nodes, networks, services and containers: labels of RFC 1123, section 2.1.

A name becomes a DNS label, so it is checked once, here, when it enters: 1 to 63 of a-z, 0-9 and
hyphen, no hyphen at either end, lower case. Reserved names are those that already mean something
in the zone or on a host.
"""

from __future__ import annotations

import re

from meshnet.errors import BadInput

LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
RESERVED = frozenset({"localhost", "localdomain", "mesh", "ns", "hostmaster", "wpad", "arpa"})
DEFAULT_NETWORK = "default"
ZONE = "mesh"


def is_label(text: str) -> bool:
    """Say whether `text` is a lower-case label of RFC 1123."""
    return LABEL.fullmatch(text) is not None


def check_name(text: str, what: str) -> str:
    """Return `text` when it may name a `what` (node, network, service, …), else raise BadInput."""
    if not is_label(text):
        raise BadInput(
            f"{what} name {text[:80]!r} is not a DNS label",
            "Use 1 to 63 of a-z, 0-9 and '-', with no '-' at either end.",
        )
    if text in RESERVED:
        raise BadInput(f"{what} name {text!r} is reserved", "Choose another name.")
    return text


def label_from(text: str) -> str:
    """Return the nearest label to a free text such as a host name, or '' when nothing is left."""
    head = text.split(".", 1)[0].lower()
    return re.sub(r"[^a-z0-9-]+", "-", head).strip("-")[:63].strip("-")


def name_from(text: str) -> str:
    """Return the nearest name to what a container is called, or '' when nothing is left."""
    label = label_from(text)
    return f"c-{label}" if label in RESERVED else label
