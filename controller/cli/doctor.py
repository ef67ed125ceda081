"""`pull-secret-updater doctor`."""

from __future__ import annotations

import click

from controller.cli.checks import CHECKS
from controller.cli.flags import Flags, with_flags


@click.command()
@click.option("--pre", is_flag=True, help="Only what can be looked at before anything is installed.")
@click.option(
    "--group",
    "groups",
    multiple=True,
    type=click.Choice(list(dict.fromkeys(check.group for check in CHECKS)), case_sensitive=False),
    help="Only the checks of this group; repeatable.",
)
@click.option("--install-namespace", metavar="NAME", help="Of the controller; by default it is looked for.")
@with_flags
def doctor(*, flags: Flags, pre: bool, groups: tuple[str, ...], install_namespace: str | None) -> None:
    """Check cluster, installation, rights, policies, identity and Secrets, and say how to mend what is wrong.

    All checks run, whatever the others find; docs/checks.md explains each. What could not be looked at has the mark
    `?`. With -n, only the Secrets of that namespace are looked at. Nothing is changed, and no Secret's data is read.

    \b
    Examples:
      pull-secret-updater doctor
      pull-secret-updater doctor --pre -o json
    """
    from controller.cli import cluster, diagnosis, findings  # noqa: PLC0415 -- so that --help answers at once
    from controller.cli.exits import Exit  # noqa: PLC0415

    async def examine(connected: cluster.Cluster) -> Exit:
        whole = diagnosis.Diagnosis(connected, namespace=flags.namespace, install_namespace=install_namespace)
        return findings.print_findings(flags, await whole.run(pre=pre, groups=groups))

    cluster.run(flags, examine)
