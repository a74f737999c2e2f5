"""Shell. Where text goes: a drawn table on a terminal, plain columns in a pipe, JSON when asked."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import msgspec

from meshnet.cli.text import Table, columns

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def print_json(value: object) -> None:
    """Print a value as indented JSON; addresses and keys in it as their text."""
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2))


def print_table(table: Table) -> None:
    """Print a table: drawn on a terminal, plain columns elsewhere."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        _draw(table)
    else:
        click.echo(columns(table))


def _draw(table: Table) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as Drawing
    from rich.text import Text

    drawing: Any = Drawing(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in table.heads:
        side = "right" if head in table.right else "left"
        drawing.add_column(head, justify=side, overflow="fold")
    for row in table.rows:
        drawing.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(drawing)


def step(text: str) -> None:
    """Tell on standard error what long work does now."""
    click.echo(f"• {text}", err=True)
