"""Face. What the demo shows: steps with a counter and a clock, what was typed, what came back."""

from __future__ import annotations

import os
import sys
import time

BOLD, DIM, GREEN, RED, CYAN = "1", "2", "32", "31", "36"
INDENT = "    "


class Screen:
    """Writes to standard output, in colour on a terminal."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._shown = 0
        self._start = time.monotonic()
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def step(self, title: str) -> None:
        """Begin the next step."""
        self._shown += 1
        counter = f"[{self._shown}/{self._steps}]"
        self._write(f"\n{self._paint(BOLD, f'{counter} {title}')}  {self._clock()}")

    def typed(self, where: str, command: str, what_for: str = "") -> None:
        """Show a command and the machine it is typed on."""
        note = self._paint(DIM, f"   # {what_for}") if what_for else ""
        self._write(f"  {self._paint(CYAN, where)} {self._paint(BOLD, '$')} {command}{note}")

    def output(self, text: str) -> None:
        for line in text.rstrip("\n").splitlines():
            self._write(f"{INDENT}{line}")

    def note(self, text: str) -> None:
        """Say something that no command said."""
        for line in text.splitlines():
            self._write(f"  {self._paint(DIM, line)}")

    def found(self, text: str) -> None:
        """Say what was just checked and holds."""
        self._write(f"  {self._paint(GREEN, '✓')} {text}  {self._clock()}")

    def failed(self, text: str) -> None:
        self._write(f"\n{self._paint(RED, '✗')} {text}")

    def plain(self, text: str = "") -> None:
        self._write(text)

    def _clock(self) -> str:
        return self._paint(DIM, f"{self.elapsed:.1f} s")

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text

    def _write(self, line: str) -> None:
        print(line, flush=True)
