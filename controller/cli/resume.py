"""`pull-secret-updater resume`."""

from __future__ import annotations

import click

from controller.cli.flags import Flags, with_flags
from controller.cli.selection import Selection, with_selection


@click.command()
@with_selection
@with_flags
def resume(*, flags: Flags, selection: Selection) -> None:
    """Let the controller go on with Secrets that were paused.

    \b
    Examples:
      pull-secret-updater resume pull-secret
      pull-secret-updater resume --all -n team-a
    """
    from controller.cli import asks, cluster  # noqa: PLC0415 -- so that --help answers at once

    cluster.run(flags, lambda connected: asks.annotate(connected, flags, selection, paused=None))
