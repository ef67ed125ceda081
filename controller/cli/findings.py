"""Findings, and how they are printed: a mark, what was looked at, what was found, and what to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click
import msgspec

from controller.cli.exits import Exit, Level, worst
from controller.cli.flags import Flags
from controller.cli.output import print_objects, printable
from controller.cli.secretstatus import API_VERSION

MARKS = {Level.OK: "ok", Level.WARNING: "warn", Level.ERROR: "FAIL", Level.UNKNOWN: "?"}
_COLORS = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red", Level.UNKNOWN: "cyan"}


class Finding(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What came of one look."""

    topic: str
    level: Level
    message: str
    id: str | None = None
    """Of a check of docs/checks.md."""
    cure: str | None = None
    page: str | None = None


class FindingList(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What `-o json` prints of findings."""

    api_version: str = API_VERSION
    kind: str = "PullSecretFindingList"
    items: list[Finding]


def print_findings(flags: Flags, findings: Sequence[Finding]) -> Exit:
    """Print them; the exit code that they ask for."""
    if flags.output in ("json", "yaml", "name"):
        named = [finding.id or finding.topic for finding in findings if finding.level is not Level.OK]
        print_objects(flags, FindingList(items=list(findings)), names=named)
    else:
        width = max((len(finding.topic) for finding in findings), default=0)
        for finding in findings:
            _print(flags, finding, width)
    return worst(finding.level.exit(fail_on=flags.fail_on) for finding in findings)


def _print(flags: Flags, finding: Finding, width: int) -> None:
    colored = flags.color and sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    mark = f"{MARKS[finding.level]:<4}"
    if colored:
        mark = click.style(mark, fg=_COLORS[finding.level], bold=finding.level is Level.ERROR)
    identified = f"{finding.id} " if finding.id else ""
    click.echo(f"{mark}  {finding.topic:<{width}}  {identified}{printable(finding.message)}")
    margin = " " * (width + 8)
    if finding.cure:
        click.echo(f"{margin}cure: {printable(finding.cure)}")
    if finding.page and finding.cure and flags.is_wide:
        click.echo(f"{margin}page: {finding.page}")
