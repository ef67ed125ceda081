"""`pull-secret-updater pause`."""

from __future__ import annotations

import click

from controller.cli.flags import Flags, with_flags
from controller.cli.selection import Selection, with_selection


@click.command()
@with_selection
@with_flags
def pause(*, flags: Flags, selection: Selection) -> None:
    """Make the controller leave Secrets alone, until `resume`. Their tokens stay, and run out.

    \b
    Examples:
      pull-secret-updater pause pull-secret
      pull-secret-updater pause -l team=web -n team-a
    """
    from controller.cli import asks, cluster  # noqa: PLC0415 -- so that --help answers at once

    cluster.run(flags, lambda connected: asks.annotate(connected, flags, selection, paused="true"))
