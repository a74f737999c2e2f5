"""Runs tests marked `kernel` where there is WireGuard in the kernel: here, or in a guest kernel.

On a host whose kernel has WireGuard they are tests like any other. Elsewhere all of them together
run once in a guest, by the runner that MESHNET_KERNEL_RUNNER names,

    RUNNER run --timeout SECONDS -- COMMAND

which must run COMMAND as root over this machine's file system under a kernel with WireGuard, or by
the project's own, `tests/lab/qemu.py`. Where that one has to emulate the processor, only tests not
marked `slow` are worth the wait; MESHNET_KERNEL_ALL=1 runs all. The pytest in the guest writes each
report as a line on its standard output; the one out here takes them for its own, so every test
counts and fails by itself. Without a runner they are skipped, saying so.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import qemu

RUNNER = "MESHNET_KERNEL_RUNNER"
ALL = "MESHNET_KERNEL_ALL"
TIME_LIMIT = 1500
MARK = "\x1emeshnet-report "
ROOT = Path(__file__).parents[2]

_guest: pytest.StashKey[Guest] = pytest.StashKey()


@functools.cache
def has_wireguard() -> bool:
    """Say whether this kernel can make a WireGuard device."""
    probe = ["unshare", "--net", "ip", "link", "add", "wgprobe", "type", "wireguard"]
    return os.geteuid() == 0 and subprocess.run(probe, capture_output=True).returncode == 0


def runner() -> list[str]:
    """Return the words that begin a runner's command line; none when there is no runner."""
    named = os.environ.get(RUNNER, "")
    if named:
        return [str(Path(named).resolve())] if shutil.which(named) else []
    return [] if qemu.missing() else [sys.executable, "-m", "tests.lab.qemu"]


def why_no_runner() -> str:
    """Return why `runner` returns none."""
    named = os.environ.get(RUNNER, "")
    if named:
        return f"{RUNNER} names no program: {named}"
    why = qemu.missing()
    return f"{why}, or name a runner by {RUNNER}" if why else ""


def is_too_slow(item: pytest.Item) -> bool:
    """Say whether a test is not worth the wait in the guest there is."""
    if os.environ.get(RUNNER) or os.environ.get(ALL) or not item.get_closest_marker("slow"):
        return False
    return qemu.accelerators()[0] == "tcg"


class Guest:
    """One run of all kernel tests in a guest, when the first of them is due."""

    def __init__(self, config: pytest.Config, names: list[str]) -> None:
        self._config = config
        self.names = names
        self._reports: dict[str, list[dict[str, Any]]] | None = None
        self.output: list[str] = []
        self.kernel = ""

    def reports(self, name: str) -> list[dict[str, Any]]:
        """Return the reports of one test; those that never came are an error of the guest's."""
        if self._reports is None:
            self._reports = self._run()
        return self._reports.get(name, [])

    def _run(self) -> dict[str, list[dict[str, Any]]]:
        command = [*runner(), "run", "--timeout", str(TIME_LIMIT), "--", sys.executable]
        command += ["-m", "pytest", "-p", "tests.lab.guest", "--guest-reports", "-q"]
        command += ["-p", "no:cacheprovider", *self.names]
        if not self._config.pluginmanager.hasplugin("rerunfailures"):
            command += ["-p", "no:rerunfailures"]
        reports = defaultdict(list)
        with subprocess.Popen(
            command,
            cwd=ROOT,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as guest:
            for report in self._read(guest):
                if "kernel" in report:
                    self.kernel = report["kernel"]
                else:
                    reports[report["nodeid"]].append(report)
        return reports

    def _read(self, guest: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
        assert guest.stdout is not None
        for line in guest.stdout:
            head, mark, report = line.partition(MARK)
            if mark:
                yield json.loads(report)
            else:
                self.output.append(head)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--guest-reports", action="store_true", help="write reports for the host")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "kernel: needs WireGuard in the kernel; runs in a guest where the host has none"
    )
    if config.getoption("--guest-reports"):
        config.pluginmanager.register(_Reporter(config), "guest-reporter")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("kernel")]
    if not marked or has_wireguard():
        return
    items[:] = [item for item in items if item not in marked] + marked
    if not runner() or os.geteuid() != 0:
        _skip(marked, f"no guest kernel: {why_no_runner() or 'needs root'}")
        return
    slow = [item for item in marked if is_too_slow(item)]
    _skip(slow, f"an emulated processor takes too long for it; {ALL}=1 runs it")
    config.stash[_guest] = Guest(config, [item.nodeid for item in marked if item not in slow])
    for item in marked:  # the first one waits for all; each has its limit in the guest
        item.add_marker(pytest.mark.timeout(0), append=False)


def _skip(items: list[pytest.Item], why: str) -> None:
    reason = f"this kernel ({platform.release()}) has no WireGuard; {why}"
    for item in items:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    guest = item.config.stash.get(_guest, None)
    if guest is None or item.nodeid not in guest.names:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in guest.reports(item.nodeid) or [_lost(item, guest)]:
        item.ihook.pytest_runtest_logreport(report=_rebuilt(item.config, report))
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _rebuilt(config: pytest.Config, data: dict[str, Any]) -> pytest.TestReport:
    report = config.hook.pytest_report_from_serializable(config=config, data=data)
    if isinstance(report.longrepr, list):  # a skip's place and reason: JSON has no tuples
        report.longrepr = tuple(report.longrepr)
    assert isinstance(report, pytest.TestReport)
    return report


def _lost(item: pytest.Item, guest: Guest) -> dict[str, Any]:
    """Return a failure for a test that the guest said nothing of, with its last words."""
    words = "".join(guest.output[-60:])
    report = pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=f"the guest kernel gave no report of this test; its last words:\n{words}",
        when="call",
    )
    data: dict[str, Any] = item.config.hook.pytest_report_to_serializable(
        config=item.config, report=report
    )
    return data


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    guest = config.stash.get(_guest, None)
    if guest is not None and guest.kernel:
        terminalreporter.write_line(f"tests marked kernel ran in a guest, Linux {guest.kernel}")


class _Reporter:
    """In the guest: a line for each report, past whatever captures standard output."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        self._write({"kernel": platform.release()})

    def _write(self, data: dict[str, Any]) -> None:
        self._out.write(f"\n{MARK}{json.dumps(data)}\n")

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._write(
            self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        )
