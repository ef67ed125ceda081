"""`pull-secret-updater refresh`."""

from __future__ import annotations

import click

from controller.cli.flags import DURATION, Flags, with_flags
from controller.cli.selection import Selection, with_selection


@click.command()
@with_selection
@click.option("--no-wait", is_flag=True, help="Only ask.")
@click.option("--timeout", type=DURATION, default="60s", metavar="DURATION", help="How long to wait; 60s by default.")
@with_flags
def refresh(*, flags: Flags, selection: Selection, no_wait: bool, timeout: float) -> None:
    """Ask the controller for a new token of each Secret, and wait for it.

    It sets the annotation `refresh`, as you. It exits with 0 only if each has a new token, with 1 and the reason if the
    controller can't get one, and with 4 if nothing came in time.

    \b
    Examples:
      pull-secret-updater refresh pull-secret
      pull-secret-updater refresh --all -n team-a --timeout 2m
    """
    from controller.cli import asks, cluster  # noqa: PLC0415 -- so that --help answers at once

    seconds = None if no_wait else timeout
    cluster.run(flags, lambda connected: asks.refresh(connected, flags, selection, wait_seconds=seconds))
