"""On a terminal a table is drawn; a narrow one folds it and loses nothing."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress

PROGRAM = """
from meshnet.cli.output import print_table
from meshnet.cli.text import Table
rows = (("a1", "10.213.0.2 fd12:3456:789a:0:1:2:3:4", "12"), ("[b]office[/b]", "-", "7"))
print_table(Table(("NAME", "ADDRESSES", "COUNT"), rows, frozenset({"COUNT"})))
"""


def drawn(columns: int, **environment: str) -> list[str]:
    """Return what a terminal of so many columns is given, without trailing blanks."""
    ours, theirs = pty.openpty()
    base = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    environment = {"TERM": "xterm", "COLUMNS": str(columns), "NO_COLOR": "1", **environment}
    subprocess.run(
        [sys.executable, "-c", PROGRAM],
        stdout=theirs,
        env=base | environment,
        timeout=60,
        check=True,
    )
    os.close(theirs)
    text = b""
    with suppress(OSError):
        while part := os.read(ours, 65536):
            text += part
    os.close(ours)
    return [
        line.rstrip()
        for line in text.decode().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    ]


def test_a_wide_terminal_gets_a_table_with_a_rule() -> None:
    assert drawn(80) == [
        "NAME            ADDRESSES                             COUNT",
        "───────────────────────────────────────────────────────────",
        "a1              10.213.0.2 fd12:3456:789a:0:1:2:3:4      12",
        "[b]office[/b]   -                                         7",
    ]


def test_a_narrow_terminal_folds_cells_and_loses_nothing() -> None:
    lines = drawn(40)
    assert max(map(len, lines)) <= 40
    text = "".join(line[16:32].strip() for line in lines[2:])
    assert "10.213.0.2" in text
    assert "fd12:3456:789a:0" in text


def test_a_dumb_terminal_gets_plain_columns() -> None:
    assert drawn(80, TERM="dumb")[0] == "NAME           ADDRESSES                            COUNT"
