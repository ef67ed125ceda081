"""What all commands share of the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import click

FILE = click.Path(dir_okay=False, path_type=Path)


def fail(sentence: str, problems: Iterable[str]) -> NoReturn:
    """Say on standard error what is wrong, a line a problem, and exit with 1."""
    click.echo(f"pull-secret-updater: {sentence}:", err=True)
    for problem in problems:
        click.echo(f"  {problem}", err=True)
    sys.exit(1)


def refuse(sentence: str) -> NoReturn:
    """Say on standard error why what was given can't be used, and exit with 2."""
    click.echo(f"pull-secret-updater: {sentence}", err=True)
    sys.exit(2)
