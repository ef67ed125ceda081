"""`pull-secret-updater targets`."""

from __future__ import annotations

from pathlib import Path

import click

from controller.cli.flags import Flags, with_flags
from controller.cli.output import FILE


@click.command()
@click.option("-f", "--file", type=FILE, help="Plan with this configuration, in place of the controller's own.")
@click.option("--install-namespace", metavar="NAME", help="Of the controller; by default it is looked for.")
@with_flags
def targets(*, flags: Flags, file: Path | None, install_namespace: str | None) -> None:
    """Show in which namespaces targets have made their Secrets, and what is still to be created or removed.

    With -f it is a plan: what the controller would create and remove with that configuration. Nothing is changed.

    \b
    Examples:
      pull-secret-updater targets
      pull-secret-updater targets -f config.yaml -o json
    """
    from controller.cli import cluster, targetplan  # noqa: PLC0415 -- so that --help answers at once

    cluster.run(
        flags,
        lambda connected: targetplan.show(connected, flags, file=file, install_namespace=install_namespace),
    )
