"""What all commands share of the terminal: data on standard output, everything else on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec
import yaml

from controller.cli.exits import Exit
from controller.cli.flags import Flags

if TYPE_CHECKING:
    from rich.console import Console

FILE = click.Path(dir_okay=False, path_type=Path)
_UNCUT = 100_000
"""Columns where nobody looks: a pipe gets whole lines."""


def fail(sentence: str, problems: Iterable[str]) -> NoReturn:
    """Say on standard error what is wrong, a line a problem, and exit with 1."""
    told(f"{sentence}:")
    for problem in problems:
        click.echo(f"  {problem}", err=True)
    sys.exit(Exit.WRONG)


def refuse(sentence: str) -> NoReturn:
    """Say on standard error why what was given can't be used, and exit with 2."""
    told(sentence)
    sys.exit(Exit.UNUSABLE)


def told(sentence: str) -> None:
    """Say something on standard error."""
    click.echo(f"pull-secret-updater: {sentence}", err=True)


def printable(text: str) -> str:
    """Without what could move a terminal's cursor: annotations are other people's."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def print_objects(flags: Flags, objects: Any, *, names: Iterable[str]) -> None:
    """Print for machines: `objects` as JSON or YAML, or `names`, a line each."""
    match flags.output:
        case "json":
            click.echo(msgspec.json.format(msgspec.json.encode(objects), indent=2))
        case "yaml":
            click.echo(yaml.safe_dump(msgspec.to_builtins(objects), sort_keys=False, allow_unicode=True), nl=False)
        case _:
            for name in names:
                click.echo(name)


def print_table(
    flags: Flags, columns: Sequence[str], rows: Sequence[Sequence[str]], *, styles: Sequence[tuple[int, str]]
) -> None:
    """Print for people, in as many columns as the terminal or COLUMNS has; only the last column is wrapped.

    Of row i, cell `styles[i][0]` gets the style `styles[i][1]` where there is colour.
    """
    from rich.table import Table  # noqa: PLC0415 -- so that --help answers at once
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, show_header=flags.headers, header_style="", padding=(0, 2, 0, 0))
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(columns[-1], overflow="fold")
    for row, (styled, style) in zip(rows, styles, strict=True):
        cells = [Text(printable(cell)) for cell in row]
        cells[styled].stylize(style)
        table.add_row(*cells)
    console = _console(flags)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip(), color=True)


def _console(flags: Flags) -> Console:
    from rich.console import Console  # noqa: PLC0415

    plain = not flags.color or "NO_COLOR" in os.environ  # rich would keep bold
    console = Console(
        file=sys.stdout, highlight=False, markup=False, emoji=False, color_system=None if plain else "auto"
    )
    if flags.is_wide or (not console.is_terminal and "COLUMNS" not in os.environ):
        console.width = _UNCUT
    return console
