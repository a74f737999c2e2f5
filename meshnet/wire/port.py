"""Pure. How a port is written, by people and in labels: `80`, `53/udp`, `grpc:9000/tcp`."""

from __future__ import annotations

import re
from typing import Literal

from meshnet.errors import BadInput
from meshnet.model.names import check_name
from meshnet.wire.local import PortSpec

SERVICE_TYPES = {
    (22, "tcp"): "ssh",
    (25, "tcp"): "smtp",
    (53, "tcp"): "domain",
    (53, "udp"): "domain",
    (80, "tcp"): "http",
    (123, "udp"): "ntp",
    (389, "tcp"): "ldap",
    (443, "tcp"): "https",
    (3306, "tcp"): "mysql",
    (5432, "tcp"): "postgresql",
    (5672, "tcp"): "amqp",
    (6379, "tcp"): "redis",
}
"""Service types that IANA registers for usual ports: what SRV calls a port left unnamed."""

_PORT = re.compile(r"(?:(?P<name>[^:/]*):)?(?P<number>[0-9]{1,5})(?:/(?P<protocol>tcp|udp))?")


def port(text: str) -> PortSpec:
    """Read `[NAME:]NUMBER[/tcp|udp]`; without a name, a usual port gets its usual one."""
    match = _PORT.fullmatch(text)
    if not match or not 0 < int(match["number"]) < 65536:
        raise BadInput(
            f"port {text[:80]!r} is not [NAME:]NUMBER[/tcp|udp]",
            "Write 80, 80/tcp, 53/udp or grpc:9000/tcp; numbers go from 1 to 65535.",
        )
    number = int(match["number"])
    protocol: Literal["tcp", "udp"] = "udp" if match["protocol"] == "udp" else "tcp"
    if match["name"] is not None:
        name = check_name(match["name"], "port")
    else:
        name = SERVICE_TYPES.get((number, protocol), "")
    return PortSpec(number=number, protocol=protocol, name=name)
