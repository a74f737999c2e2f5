"""Pure. Imports go down only, and what decides does no IO.

cli  containers              L4 faces
agent  coordinator  dns      L3 shells
linux  local                 L2 drivers, the first alone with pyroute2
plan  paths                  L1 decisions
wire  /  model  /  errors    L0 values
"""

from __future__ import annotations

import sys

from tests.static.source import Module, expect_none, product

LEVEL = {
    "errors": 0,
    "model": 1,
    "wire": 2,
    "plan": 3,
    "paths": 3,
    "linux": 4,
    "local": 4,
    "agent": 5,
    "coordinator": 5,
    "dns": 5,
    "relay": 5,
    "containers": 6,
    "web": 6,
    "cli": 7,
}
BESIDE = {
    ("agent", "dns"),
    ("coordinator", "dns"),
}
"""Pairs that may meet on one level: the agent feeds the DNS server it starts, and a coordinator
checks static records as that server will read them."""

OWNERS = {
    "pyroute2": {"linux"},
    "sqlalchemy": {"coordinator"},
    "alembic": {"coordinator"},
    "aiosqlite": {"coordinator"},
    "uvloop": {"coordinator"},
    "click": {"cli"},
    "rich": {"cli"},
}
"""Libraries that only these packages may import."""

IMPURE = {
    *("asyncio", "concurrent", "http", "select", "selectors", "socket", "ssl", "sqlite3"),
    *("ctypes", "fcntl", "io", "os", "shutil", "signal", "subprocess", "tempfile"),
    *("multiprocessing", "random", "secrets", "threading", "time"),
    *("aiohttp", "aiosqlite", "alembic", "pyroute2", "uvloop"),
}
"""What a Pure module has no use for: IO, the clock, chance, waiting."""


def package_of(name: str) -> str:
    """Return the package of the product a dotted name lies in, '' for the root itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "meshnet" else ""


def is_pure(module: Module) -> bool:
    return module.kind == "Pure"


def faults_of_layer(module: Module) -> list[str]:
    """Return the imports of `module` that go up, or sideways into another package."""
    own = package_of(module.name)
    faults = []
    for line, name in module.imports():
        other = package_of(name)
        if other not in LEVEL or other == own or own not in LEVEL or (own, other) in BESIDE:
            continue
        if LEVEL[other] >= LEVEL[own]:
            faults.append(f"{module.where}:{line} {own} imports {name}")
    return faults


def test_every_package_has_its_level() -> None:
    packages = {package_of(module.name) for module in product()} - {""}
    assert packages <= LEVEL.keys() | {"__main__"}


def test_imports_go_down_only() -> None:
    expect_none(fault for module in product() for fault in faults_of_layer(module))


def test_libraries_stay_with_their_owners() -> None:
    faults = [
        f"{module.where}:{line} imports {name}"
        for module in product()
        for line, name in module.imports()
        if package_of(module.name) not in OWNERS.get(name.split(".")[0], {package_of(module.name)})
    ]
    expect_none(faults)


def test_pure_modules_import_nothing_that_acts() -> None:
    faults = [
        f"{module.where}:{line} imports {name}"
        for module in product()
        if is_pure(module)
        for line, name in module.imports()
        if name.split(".")[0] in IMPURE
    ]
    expect_none(faults)


def test_pure_modules_import_pure_modules_only() -> None:
    kinds = {module.name: module for module in product()}
    faults = []
    for module in filter(is_pure, product()):
        for line, name in module.imports():
            target = kinds.get(name) or kinds.get(name.rpartition(".")[0])
            if target and not target.is_package and not is_pure(target):
                faults.append(f"{module.where}:{line} imports {target.name}, {target.kind}")
    expect_none(faults)


def test_pure_modules_never_await() -> None:
    faults = [
        module.where
        for module in filter(is_pure, product())
        if "async def" in module.text or "await " in module.text
    ]
    expect_none(faults)


def test_the_values_and_decisions_are_pure() -> None:
    low = {"errors", "model", "wire", "plan", "paths"}
    expect_none(
        module.where
        for module in product()
        if package_of(module.name) in low and not module.is_package and not is_pure(module)
    )


def test_no_module_imports_itself_in_a_circle() -> None:
    names = {module.name for module in product()}
    graph = {
        module.name: {
            name if name in names else name.rpartition(".")[0]
            for line, name in module.imports()
            if _at_top(module, line)
        }
        & names - {module.name}
        for module in product()
    }
    expect_none(_circle(graph))


def _at_top(module: Module, line: int) -> bool:
    """An import inside a function happens later and closes no circle."""
    return not module.text.splitlines()[line - 1].startswith(" ")


def _circle(graph: dict[str, set[str]]) -> list[str]:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    sys.setrecursionlimit(max(sys.getrecursionlimit(), 10_000))
    return next((found for name in sorted(graph) if (found := visit(name, []))), [])
