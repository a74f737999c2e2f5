"""Pure. Where this machine's meshnet keeps its state and its sockets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATE_DIR = Path("/var/lib/meshnet")
RUN_DIR = Path("/run/meshnet")


@dataclass(frozen=True, slots=True)
class Settings:
    """The global options. The coordinator's state lies in a directory of its own below."""

    state_dir: Path = STATE_DIR
    run_dir: Path = RUN_DIR

    @classmethod
    def of(cls, state_dir: str, run_dir: str) -> Settings:
        """Return the settings for two paths as they were typed, made absolute."""
        return cls(Path(state_dir).absolute(), Path(run_dir).absolute())

    @property
    def coordinator_dir(self) -> Path:
        return self.state_dir / "coordinator"

    @property
    def coordinator_socket(self) -> Path:
        """The admin socket: where the unit puts it, or where one run by hand does."""
        by_unit = self.run_dir / "coordinator" / "coordinator.sock"
        return by_unit if by_unit.exists() else self.run_dir / "coordinator.sock"

    @property
    def arguments(self) -> list[str]:
        """The global options as they would be typed, without those that have their default."""
        words: list[str] = []
        if self.state_dir != STATE_DIR:
            words += ["--state-dir", str(self.state_dir)]
        if self.run_dir != RUN_DIR:
            words += ["--run-dir", str(self.run_dir)]
        return words
