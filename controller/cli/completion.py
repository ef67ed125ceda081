"""`pull-secret-updater completion`, and what completes `kubectl pull-secrets`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
from click.shell_completion import ShellComplete, get_completion_class

_VARIABLE = "_PULL_SECRET_UPDATER_COMPLETE"
"""By which click's script calls the program."""

_NO_FILES = ":4"
"""The directive of cobra, whose protocol kubectl speaks: complete no file names."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes `pull-secret-updater` in a SHELL.

    kubectl completes `kubectl pull-secrets` by itself, once its own completion is set up.

    \b
    Examples:
      pull-secret-updater completion bash
      pull-secret-updater completion zsh
    """
    root = click.get_current_context().find_root().command
    made = get_completion_class(shell)
    assert made is not None  # the choices are click's own  # noqa: S101
    click.echo(made(root, {}, "pull-secret-updater", _VARIABLE).source())


def candidates(root: click.Command, words: Sequence[str]) -> list[str]:
    """What may stand in the place of the last word, each with its help after a tab if it has one."""
    *before, last = words or [""]
    items = ShellComplete(root, {}, "kubectl pull-secrets", _VARIABLE).get_completions(list(before), last)
    plain = [item for item in items if item.type == "plain"]
    return [f"{item.value}\t{item.help}" if item.help else str(item.value) for item in plain]


def answer_kubectl(root: click.Command) -> None:
    """Answer kubectl, which passes the words of the command line so far as arguments."""
    for line in candidates(root, sys.argv[1:]):
        click.echo(line)
    click.echo(_NO_FILES)
