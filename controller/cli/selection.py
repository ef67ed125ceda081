"""Which Secrets of a namespace a command is about: those that are named, those with labels, or all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """All Secrets that ask for an identity, if neither is given."""

    names: Sequence[str]
    selector: str | None


def with_selection(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the argument NAMES and the flags `-l` and `--all`; it takes them as its argument `selection`."""

    @click.argument("names", nargs=-1)
    @click.option("-l", "--selector", metavar="LABELS", help="Secrets with these labels.")
    @click.option("--all", "everything", is_flag=True, help="All Secrets of the namespace that ask for an identity.")
    @functools.wraps(function)
    def command(*, names: tuple[str, ...], selector: str | None, everything: bool, **given: Any) -> None:
        if bool(names) + bool(selector) + everything != 1:
            raise click.UsageError("give the names of Secrets, or -l LABELS, or --all")
        function(selection=Selection(names=names, selector=selector), **given)

    return command
