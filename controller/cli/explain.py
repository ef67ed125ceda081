"""`pull-secret-updater explain`."""

from __future__ import annotations

import click

from controller.cli.flags import Flags, with_flags


@click.command()
@click.argument("name")
@click.option("--install-namespace", metavar="NAME", help="Of the controller; by default it is looked for.")
@with_flags
def explain(*, flags: Flags, name: str, install_namespace: str | None) -> None:
    """Follow the token of the Secret NAME on its way, and say where it stops and what to do.

    What could not be looked at has the mark `?`. It reads metadata only, and changes nothing.

    \b
    Examples:
      pull-secret-updater explain pull-secret
      pull-secret-updater explain pull-secret -n team-b -o json
    """
    from controller.cli import cluster, explanation, findings  # noqa: PLC0415 -- so that --help answers at once
    from controller.cli.exits import Exit  # noqa: PLC0415

    async def follow(connected: cluster.Cluster) -> Exit:
        found = await explanation.explain(connected, name=name, install_namespace=install_namespace)
        return findings.print_findings(flags, found)

    cluster.run(flags, follow)
