"""The flags that commands share; each means the same everywhere, and what it means in kubectl."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

FORMATS = ("table", "wide", "json", "yaml", "name")
_UNITS_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What they were set to."""

    namespace: str | None
    context: str | None
    kubeconfig: Path | None
    request_timeout: float
    """Seconds."""
    output: str
    headers: bool
    color: bool
    verbose: int
    fail_on: str

    @property
    def is_wide(self) -> bool:
        """More columns, and whole sentences."""
        return self.output == "wide"


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds of `90`, `90s`, `2m` or `1h`."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh]?)", str(value))
        if match is None or not float(match[1]):
            self.fail(f"{value!r} is no duration such as 30s, 2m or 1h", param, ctx)
        return float(match[1]) * _UNITS_SECONDS[match[2]]


DURATION = _Duration()

_OPTIONS = (
    click.option("-n", "--namespace", metavar="NAME", help="Where; by default the context's namespace."),
    click.option("--context", metavar="NAME", help="Of the kubeconfig, in place of its current one."),
    click.option(
        "--kubeconfig",
        type=click.Path(path_type=Path),
        envvar=["PULL_SECRET_UPDATER_KUBECONFIG", "KUBECONFIG"],
        help="By default KUBECONFIG, then ~/.kube/config, then the Pod's own ServiceAccount.",
    ),
    click.option("--request-timeout", type=DURATION, default="15s", metavar="DURATION", help="For each request."),
    click.option(
        "-o", "--output", type=click.Choice(FORMATS), default="table", help="How to print.", show_default=True
    ),
    click.option("--no-headers", "headers", is_flag=True, flag_value=False, default=True, help="Print no header line."),
    click.option("--no-color", "color", is_flag=True, flag_value=False, default=True, help="As NO_COLOR does."),
    click.option("-v", "--verbose", count=True, help="Say on standard error what is asked of the API server."),
    click.option(
        "--fail-on",
        type=click.Choice(["error", "warning"]),
        default="error",
        show_default=True,
        help="From where on the exit code is 1.",
    ),
)


def with_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command all shared flags; it takes them as its argument `flags`."""

    @functools.wraps(function)
    def command(**given: Any) -> None:
        shared = Flags(**{field.name: given.pop(field.name) for field in fields(Flags)})
        function(flags=shared, **given)

    decorated: Callable[..., None] = command
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
