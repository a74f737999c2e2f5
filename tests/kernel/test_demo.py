"""Shell. The demo, as a stranger starts it, where WireGuard is the kernel's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.kernel, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
LIMIT = 280
"""Seconds; it takes fifteen on a machine that does nothing else."""


def test_the_demo_works_as_it_stands_and_says_that_wireguard_is_the_kernels() -> None:
    played = subprocess.run(
        ["make", "demo"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )

    assert played.returncode == 0, played.stdout[-4000:]
    assert "WireGuard: kernel" in played.stdout
    assert "Everything that was promised held. Everything made is removed." in played.stdout
