"""Shell. A real systemd-resolved on a host of a lab, with the bus it is asked on.

    resolved = Resolved(host, upstream="127.0.0.9")      and /etc/resolv.conf names its stub

The program need not be installed, which would change how this machine itself asks for names: where
it is not, the one that `.ci/setup` unpacked beside the virtual environment is run.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.lab.hosts import Host
from tests.lab.waiting import wait_until

UNPACKED = Path(".make/systemd-resolved").resolve()
PROGRAMS = tuple(
    root / directory / "systemd/systemd-resolved"
    for root in (Path("/"), UNPACKED)
    for directory in ("lib", "usr/lib")
)
USER = 996

BUS = """
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_type="*"/><allow receive_type="*"/>
  </policy>
</busconfig>
"""

SETUP = f"""
mkdir -p /run/dbus /run/own /run/systemd/resolve /run/systemd/resolved.conf.d
grep -v ^systemd-resolve: /etc/passwd >/run/own/passwd
grep -v ^systemd-resolve: /etc/group >/run/own/group
echo systemd-resolve:x:{USER}:{USER}::/:/usr/sbin/nologin >>/run/own/passwd
echo systemd-resolve:x:{USER}: >>/run/own/group
for file in passwd group; do mount --bind /run/own/$file /etc/$file; done
chown {USER}:{USER} /run/systemd/resolve
cat >/run/own/bus.conf
"""


def missing() -> str:
    """Say what is missing to run one, as a reason to skip; '' when nothing is."""
    absent = [name for name in ("dbus-daemon", "busctl") if not shutil.which(name)]
    absent += [] if _program() else ["systemd-resolved"]
    return f"not installed: {', '.join(absent)}" if absent else ""


def _program() -> Path | None:
    return next((program for program in PROGRAMS if program.exists()), None)


class Resolved:
    """systemd-resolved, asking `upstream` what no link is asked."""

    def __init__(self, host: Host, upstream: str) -> None:
        self._host = host
        host.run("sh", "-euc", SETUP, input=BUS)
        host.file("/run/systemd/resolved.conf.d/lab.conf").write_text(
            f"[Resolve]\nDNS={upstream}\nDomains=~.\nDNSSEC=no\n"
        )
        host.start("dbus", "dbus-daemon", "--config-file=/run/own/bus.conf", "--nofork")
        wait_until(host.file("/run/dbus/system_bus_socket").exists, 10, "the bus is there")
        self.start()
        host.resolver("127.0.0.53")

    def start(self) -> None:
        """Start it, and wait until it can be asked."""
        program = _program()
        assert program is not None
        self.daemon = self._host.start("resolved", str(program))
        wait_until(self._answers, 10, lambda: f"resolved answers\n{self.daemon.text()}")

    def _answers(self) -> bool:
        return self._host.works("busctl", "--quiet", "status", "org.freedesktop.resolve1")

    def restart(self) -> None:
        self.daemon.stop()
        self.start()
