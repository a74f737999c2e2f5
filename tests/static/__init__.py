"""Pure. Tests that read the source: layers, house rules, ruff and mypy."""
