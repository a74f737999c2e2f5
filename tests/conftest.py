"""Shell. What all tests share: who may run where, and a last word on what did not run.

Tests marked `root` make namespaces. Where that is not allowed they are skipped, and the summary
says so by tier: a tier that could not run must not look like one that passed.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from tests.lab import Lab
from tests.lab.declared import NoNetem, declared

pytest_plugins = ["tests.lab.guest"]

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

AGAIN = ("scenes", "kernel", "engines")
"""Tiers of real programs on a shared machine: a test that fails there is tried once more, and the
closing line counts it as rerun. One that fails twice has failed."""

TIERS = ("static", "pure", "sim", "scenes", "kernel", "engines")
"""Directories of tests, from many and fast to few and real."""


@cache
def why_no_namespaces() -> str:
    """Return why scenes cannot run here, or '' when they can."""
    if os.geteuid() != 0:
        return "needs root: run `make test` as root"
    probe = ["unshare", "--net", "--mount", "--pid", "--fork", "ip", "link", "set", "lo", "up"]
    try:
        result = subprocess.run(probe, capture_output=True, text=True, timeout=20, check=False)
    except OSError as error:
        return f"needs unshare and ip: {error}"
    return f"no namespaces: {result.stderr.strip()}" if result.returncode else ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.pluginmanager.hasplugin("rerunfailures"):
        return
    for item in items:
        if item.path.parent.name in AGAIN:
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and (reason := why_no_namespaces()):
        pytest.skip(reason)


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """An empty lab with the test's name."""
    with Lab(request.node.name) as lab:
        yield lab


@pytest.fixture
def topology(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Lab]]:
    """A function that opens the lab that its text declares; see tests/lab/declared.py."""
    with ExitStack() as labs:

        def declare(text: str) -> Lab:
            try:
                return labs.enter_context(declared(request.node.name, text))
            except NoNetem as error:
                pytest.skip(str(error))

        yield declare


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure what the labs look like that are open, and what their daemons said."""
    report = yield
    if report.failed:
        for lab in Lab.living:
            report.sections.append((lab.title, f"{lab.draw()}\n{lab.logs()}"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say by tier how many ran, and why any did not."""
    ran: Counter[str] = Counter()
    skipped: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            if outcome in ("passed", "failed", "xfailed", "xpassed"):
                ran[tier_of(report)] += 1
            elif outcome == "skipped":
                skipped[tier_of(report)][_reason(report)] += 1
    terminalreporter.section("tiers")
    for tier in sorted(ran.keys() | skipped.keys(), key=_order):
        terminalreporter.line(f"{tier:10} {ran[tier]:5} ran")
        for reason, count in sorted(skipped[tier].items()):
            terminalreporter.line(f"{'':10} {count:5} DID NOT RUN: {reason}", yellow=True)


def tier_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return `kernel` for a test marked so, else the directory below tests/ that it lies in."""
    if "kernel" in getattr(report, "keywords", ()):
        return "kernel"
    return Path(report.nodeid.split("::")[0]).parent.name


def _order(tier: str) -> tuple[int, str]:
    return (TIERS.index(tier) if tier in TIERS else len(TIERS)), tier


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)
