"""Shell. ruff and mypy have nothing to say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.static.source import ROOT, expect_none

TYPED = ("meshnet", "tests.lab", "tests.demo", "tests.static")
"""Packages that mypy reads strictly."""

TOOLS = {
    "ruff check": ["ruff", "check", "--quiet", "--output-format=concise", "."],
    "ruff format": ["ruff", "format", "--check", "--quiet", "."],
    "mypy": ["mypy", "--strict", "--no-error-summary", *(f"--package={name}" for name in TYPED)],
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_has_nothing_to_say(tool: str) -> None:
    command = [sys.executable, "-m", *TOOLS[tool]]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    expect_none([f"{result.stdout}{result.stderr}"] if result.returncode else [])
