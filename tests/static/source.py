"""Pure. The source as the static tests read it: modules, their trees, their imports."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = ("Pure", "Shell", "Driver", "Face")
"""First words of a module's docstring: what the module may do."""


@dataclass(frozen=True, eq=False)
class Module:
    """A Python file. `name` is dotted, that of a package for its __init__."""

    path: Path
    name: str
    text: str
    tree: ast.Module

    @property
    def where(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @property
    def kind(self) -> str:
        return self.docstring.partition(".")[0]

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    def imports(self) -> Iterator[tuple[int, str]]:
        """Yield (line, dotted name) of all that is imported, also inside functions.

        `from a import b` yields a.b, which may be a module or a name in it. What only the type
        checker sees is no import.
        """
        for node in _walk_at_run_time(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._resolve(node)
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)

    def _resolve(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        keep = len(parts) - node.level + self.is_package
        return ".".join([*parts[:keep], *([node.module] if node.module else [])])


def _walk_at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield from (other, *_walk_at_run_time(other))
            continue
        yield node
        yield from _walk_at_run_time(node)


@cache
def tracked() -> tuple[Path, ...]:
    """Return the files of the project: those git knows, or all where there is no git."""
    command = [
        "git",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        hidden = {".git", ".venv", ".make", "__pycache__", ".mypy_cache", ".ruff_cache"}
        files = (path for path in ROOT.rglob("*") if not hidden & set(path.parts))
        return tuple(sorted(path for path in files if path.is_file()))
    return tuple(sorted(path for name in listed.split("\0") if (path := ROOT / name).is_file()))


@cache
def modules() -> tuple[Module, ...]:
    """Return all Python modules of the project, by path."""
    return tuple(_read(path) for path in tracked() if path.suffix == ".py")


def product() -> list[Module]:
    """Return the modules of the product."""
    return [module for module in modules() if module.name.split(".")[0] == "meshnet"]


def _read(path: Path) -> Module:
    text = path.read_text()
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(path, name, text, ast.parse(text, str(path)))


def expect_none(faults: Iterable[str]) -> None:
    """Fail with all `faults`, one a line, unless there is none."""
    listed = list(faults)
    assert not listed, "\n".join(["", *listed])
