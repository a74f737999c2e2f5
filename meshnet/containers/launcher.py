"""Shell. A plugin of ours as a program of its own, put where an engine looks for it.

What is put there starts the interpreter without `site` and without the environment (`-IS`): that
is a quarter of a plugin's time, and nobody's PYTHONPATH has a say in it. So it names the places of
our packages itself, and has to be written anew when they move. When all is said it ends at once,
since to take an interpreter apart takes a millisecond. What is there and not ours, such as
a link, is left alone when it is taken away again.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from meshnet.errors import BadInput, Unavailable

NEEDED = ("meshnet", "msgspec")
"""Packages of which a plugin must know the place."""

MARK = "# Put here by `meshnet {} setup`; with --undo it goes again."
LAUNCHER = """#!{python} -IS
{mark}
import sys
from posix import _exit

sys.path += {places}

from meshnet.containers.{module} import run

_exit(run())
"""


def put(path: Path, module: str, setup: str) -> Path:
    """Have the program at `path` run a plugin of this package; `setup` is what put it there."""
    return write(path, _text(module, setup), 0o755)


def _text(module: str, setup: str) -> str:
    if any(character.isspace() for character in sys.executable) or len(sys.executable) > 200:
        raise BadInput(
            f"{sys.executable} cannot start a script: its path has spaces or is too long",
            "Install meshnet under another path.",
        )
    specs = [find_spec(name) for name in NEEDED]
    places = [str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin]
    return LAUNCHER.format(
        python=sys.executable,
        mark=MARK.format(setup),
        places=list(dict.fromkeys(places)),
        module=module,
    )


def is_ours(path: Path, setup: str) -> bool:
    """Say whether `put` has written what is at `path`."""
    return path.is_file() and not path.is_symlink() and MARK.format(setup) in path.read_text()


def remove(path: Path) -> Path:
    """Take a file away."""
    try:
        path.unlink()
    except OSError as error:
        raise Unavailable(f"{path} cannot be removed: {error.strerror}") from error
    return path


def write(path: Path, text: str, mode: int) -> Path:
    """Put a file there at once and whole: a runtime may be about to start it."""
    aside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text)
        aside.chmod(mode)
        aside.replace(path)
    except OSError as error:
        why = f"{path} cannot be written: {error.strerror}"
        raise Unavailable(why, "Run this as root, or name another directory.") from error
    return path
