"""`pull-secret-updater migrate`."""

from __future__ import annotations

import click

from controller.cli.output import refuse


@click.group()
def migrate() -> None:
    """Print what replaces something else's configuration. Nothing is read from a cluster or changed."""


@migrate.command()
@click.option(
    "-f",
    "--file",
    metavar="FILE",
    required=True,
    help="Values of the chart crusoe-registry-token-rotator; `-` for standard input.",
)
def crusoe(file: str) -> None:
    """Print values for this project's Helm chart, from those of Crusoe's registry token rotator.

    Comments say where each value comes from, what has no meaning any more, and what you have to fill in. Values that
    the file doesn't set are the defaults of Crusoe's chart.
    """
    # Imported here, so that --help answers at once.
    from controller import config  # noqa: PLC0415
    from controller.cli.crusoe import translate  # noqa: PLC0415
    from controller.cli.crusoechart import Unusable  # noqa: PLC0415

    name = "standard input" if file == "-" else file
    try:
        with click.open_file(file, "rb") as opened:
            theirs, _ = config.parse(opened, name)
        found = translate(theirs)
    except OSError as error:
        refuse(f"{name}: can't be read: {error.strerror}")
    except config.ConfigError as error:
        refuse(error.problems[0])
    except Unusable as error:
        refuse(f"{name}: {error}")
    for key in found.unknown:
        click.echo(f"  not translated: {key}", err=True)
    for task in found.tasks:
        click.echo(f"  to fill in: {task}", err=True)
    click.echo(found.text, nl=False)
