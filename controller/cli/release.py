"""`pull-secret-updater release`."""

from __future__ import annotations

import click

from controller.cli.flags import Flags, with_flags
from controller.cli.selection import Selection, with_selection


@click.command()
@with_selection
@with_flags
def release(*, flags: Flags, selection: Selection) -> None:
    """Take the controller's tokens and annotations out of Secrets, for whoever stops using it.

    The controller then leaves them alone. Entries of others stay byte for byte, and so does an entry that somebody has
    changed since the controller wrote it. It reads the Secrets' data, and prints nothing of it.

    \b
    Examples:
      pull-secret-updater release pull-secret
      pull-secret-updater release --all -n team-a
    """
    from controller.cli import cluster, releases  # noqa: PLC0415 -- so that --help answers at once

    cluster.run(flags, lambda connected: releases.release(connected, flags, selection))
