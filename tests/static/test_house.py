"""Pure. The house rules that a reader counts on: docstrings, sizes, what lies where."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.static.source import KINDS, ROOT, Module, expect_none, modules, product, tracked

FUNCTION_LINES = 60
FILE_LINES = 500
MEDIAN_LINES = 10

TOP_LEVEL = {
    ".ci",
    ".gitattributes",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "docs",
    "meshnet",
    "packaging",
    "pyproject.toml",
    "systemd",
    "tests",
}

# Written with classes of one letter, so that this file does not contain what it looks for.
NOT_OURS = {
    "a package registry": re.compile(
        r"[p]ypi\.(?:org|python)|[p]ythonhosted\.|[n]pmjs\.|[d]ebian\.(?:org|net)|[d]ocker\.io/"
    ),
    "a path of one machine": re.compile(r"(?<![\w.])/(?:[w]ork|[r]oot|[h]ome)/|\.[l]ibrary/"),
    "a directory beside the project": re.compile(r"\.\./[s]hared"),
}
ALLOWED = {(".ci/run", "a directory beside the project")}


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def explains_itself(node: ast.ClassDef) -> bool:
    """An operation says in `__str__` what it does, so nothing is left for a docstring."""
    return any(
        isinstance(child, ast.FunctionDef) and child.name == "__str__" for child in node.body
    )


def test_every_module_says_what_it_is_for() -> None:
    expect_none(module.where for module in modules() if not module.docstring)


def test_every_module_of_the_product_says_what_it_may_do() -> None:
    expect_none(
        f"{module.where}: {module.docstring[:30]!r}"
        for module in product()
        if not module.is_package and module.kind not in KINDS
    )


def test_every_public_class_is_explained() -> None:
    expect_none(
        f"{module.where}:{node.lineno} {node.name}"
        for module in modules()
        if module.name.startswith(("meshnet", "tests.lab", "tests.demo"))
        for node in module.tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        if not ast.get_docstring(node) and not explains_itself(node)
    )


def test_no_function_is_longer_than_a_screen() -> None:
    expect_none(
        f"{module.where}:{function.lineno} {function.name} has {length(function)} lines"
        for module in modules()
        for function in functions(module)
        if length(function) > FUNCTION_LINES
    )


def test_the_usual_function_of_the_product_is_short() -> None:
    lengths = sorted(length(function) for module in product() for function in functions(module))
    assert lengths[len(lengths) // 2] <= MEDIAN_LINES
    assert lengths[len(lengths) * 9 // 10] <= 30


def test_no_file_is_too_long_to_read() -> None:
    expect_none(
        f"{module.where} has {lines} lines"
        for module in modules()
        if (lines := module.text.count("\n")) > FILE_LINES
    )


def test_the_top_level_holds_what_a_visitor_expects() -> None:
    names = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert names - TOP_LEVEL == set()


@pytest.mark.parametrize("what", sorted(NOT_OURS))
def test_no_file_names(what: str) -> None:
    faults = []
    for path in tracked():
        name = str(path.relative_to(ROOT))
        text = path.read_text(errors="replace")
        if (name, what) not in ALLOWED and (found := NOT_OURS[what].search(text)):
            faults.append(f"{name}: {found[0]!r}")
    expect_none(faults)
