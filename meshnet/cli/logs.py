"""Shell. Where the long-running commands log: standard error, a line an event.

In the journal a line carries its priority (sd-daemon(3)) and the journal knows the time; anywhere
else it begins with the time and the level.
"""

from __future__ import annotations

import logging
import os

import click

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}

log_level_option = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="How much to tell on standard error.",
)


class JournalFormatter(logging.Formatter):
    """Puts the priority before each line, those of a traceback too."""

    def format(self, record: logging.LogRecord) -> str:
        mark = f"<{_PRIORITY.get(record.levelno, 2)}>"
        return "\n".join(mark + line for line in super().format(record).splitlines())


def start_logging(level: str) -> None:
    """Log to standard error from `level` on."""
    handler = logging.StreamHandler()
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level != "debug":
        for talkative in ("alembic", "aiohttp.access"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
