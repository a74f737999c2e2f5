"""The systemd units: valid, confined, and made so that tunnels and names outlive the agent."""

from __future__ import annotations

import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from meshnet.cli import units
from meshnet.cli.units import unit_text

UNITS = Path(__file__).parents[2] / "systemd"
AGENT, COORDINATOR = "meshnet-agent.service", "meshnet-coordinator.service"
DOCKER, DOCKER_SOCKET = "meshnet-docker.service", "meshnet-docker.socket"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def service_section(name: str) -> dict[str, list[str]]:
    """Return the directives of [Service]; one may be given several times."""
    values: dict[str, list[str]] = {}
    section = (UNITS / name).read_text().partition("[Service]")[2].partition("[Install]")[0]
    for line in section.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            values.setdefault(key, []).append(value)
    return values


@needs_systemd
@pytest.mark.parametrize("name", [AGENT, COORDINATOR])
def test_systemd_finds_no_fault_with_a_unit(name: str, tmp_path: Path) -> None:
    installed = tmp_path / name
    installed.write_text(unit_text(name, "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", str(installed)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize(("name", "exposure"), [(AGENT, 60), (COORDINATOR, 20), (DOCKER, 25)])
def test_a_unit_is_exposed_no_more_than_it_must(name: str, exposure: int) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={exposure}"]
    result = subprocess.run(
        [*command, str(UNITS / name)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout


@needs_systemd
def test_systemd_finds_no_fault_with_dockers_socket_and_its_service(tmp_path: Path) -> None:
    service = (UNITS / DOCKER).read_text().replace("/usr/bin/meshnet-docker", "/bin/true")
    (tmp_path / DOCKER).write_text(service)
    (tmp_path / DOCKER_SOCKET).write_text((UNITS / DOCKER_SOCKET).read_text())
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / DOCKER_SOCKET)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_restart_of_the_agent_ends_neither_tunnels_nor_names() -> None:
    agent = service_section(AGENT)
    assert (agent["KillMode"], agent["RuntimeDirectoryPreserve"]) == (["process"], ["yes"])


def test_the_agent_shares_the_mounts_of_the_machine() -> None:
    # Each of these gives a service a mount namespace, where others would not see ours.
    private = ("Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "Bind", "Temporary")
    assert [key for key in service_section(AGENT) if key.startswith(private)] == []


def test_both_units_notify_restart_and_are_watched() -> None:
    for name in (AGENT, COORDINATOR):
        service = service_section(name)
        assert (service["Type"], service["Restart"]) == (["notify"], ["always"])
        assert service["WatchdogSec"] == ["60"]


def test_the_coordinator_is_not_root_and_its_user_is_declared() -> None:
    user = service_section(COORDINATOR)["User"][0]
    assert f"u {user} " in (UNITS / "meshnet.sysusers").read_text()


def test_an_installed_unit_starts_the_program_that_installed_it() -> None:
    parser = RawConfigParser(strict=False)
    parser.read_string(unit_text(AGENT, "/opt/meshnet/bin/meshnet"))
    assert parser["Service"]["ExecStart"] == "/opt/meshnet/bin/meshnet agent"


def test_a_unit_of_a_package_is_not_ours_to_remove() -> None:
    shipped = unit_text(AGENT, units.PACKAGED)
    assert not shipped.startswith(units.OURS)
    assert shipped == (UNITS / AGENT).read_text()
