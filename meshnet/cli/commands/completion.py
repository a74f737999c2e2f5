"""Face. Shell completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a SHELL.

    \b
      meshnet completion bash > /etc/bash_completion.d/meshnet
      meshnet completion zsh > "${fpath[1]}/_meshnet"
      meshnet completion fish > ~/.config/fish/completions/meshnet.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, shell
    script = kind(ctx.find_root().command, {}, "meshnet", "_MESHNET_COMPLETE")
    click.echo(script.source_template % script.source_vars())
