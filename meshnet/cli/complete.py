"""Face. Completion of names that only the agent knows. Without an agent there is none to offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from meshnet.errors import MeshnetError
from meshnet.local.agent import Agent
from meshnet.local.settings import Settings

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def names_from(path: str, field: str) -> Completer:
    """Return a completer of the texts in `field` of what the agent lists at `path`."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        # Nothing runs while a line is being completed, so no command has made the settings.
        typed = ctx.find_root().params
        settings = Settings.of(typed["state_dir"], typed["run_dir"])
        try:
            rows = Agent(settings).get(path, list[dict[str, Any]])
        except MeshnetError:
            return []
        return sorted({row[field] for row in rows if row[field].startswith(incomplete)})

    return complete


complete_network = names_from("/v1/networks", "name")
complete_service = names_from("/v1/services", "service")
complete_attachment = names_from("/v1/attachments", "name")
complete_node = names_from("/v1/nodes", "name")
