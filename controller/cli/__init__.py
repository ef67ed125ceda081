"""The command line: a command a file."""

from __future__ import annotations

import click

from controller import __version__
from controller.cli.check_config import check_config
from controller.cli.migrate import migrate
from controller.cli.run import run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pull-secret-updater")
def main() -> None:
    """Keeps image pull Secrets filled with short-lived registry tokens."""


main.add_command(run)
main.add_command(check_config)
main.add_command(migrate)
