"""`pull-secret-updater version`."""

from __future__ import annotations

import click

from controller import __version__


@click.command()
def version() -> None:
    """Print the version of this command. `doctor` compares it with the controller's.

    \b
    Examples:
      pull-secret-updater version
      pull-secret-updater --version
    """
    click.echo(__version__)
