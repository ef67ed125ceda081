"""`pull-secret-updater status`."""

from __future__ import annotations

import click

from controller.cli.flags import Flags, with_flags


@click.command()
@click.argument("names", nargs=-1)
@click.option("-A", "--all-namespaces", is_flag=True, help="In all namespaces.")
@click.option("-l", "--selector", metavar="LABELS", help="Only Secrets with these labels.")
@with_flags
def status(*, flags: Flags, names: tuple[str, ...], all_namespaces: bool, selector: str | None) -> None:
    """Show the Secrets that ask for a token, the worst first, or those of the given NAMES.

    It reads metadata only. The state is what the controller itself concludes from it.

    \b
    Examples:
      pull-secret-updater status -A
      pull-secret-updater status pull-secret -n team-a -o json
    """
    if names and (all_namespaces or selector):
        raise click.UsageError("give names, or -A or -l, and not both")
    from controller.cli import cluster, statustable  # noqa: PLC0415 -- so that --help answers at once

    cluster.run(
        flags,
        lambda connected: statustable.show(connected, flags, names=names, everywhere=all_namespaces, selector=selector),
    )
