"""`pull-secret-updater check-config`."""

from __future__ import annotations

from pathlib import Path

import click

from controller.cli.output import FILE, fail


@click.command("check-config")
@click.argument("file", type=FILE)
def check_config(file: Path) -> None:
    """Check a configuration FILE and print everything that is wrong with it."""
    from controller import config  # noqa: PLC0415 -- so that --help answers at once

    try:
        settings = config.load(file)
    except config.ConfigError as error:
        fail(f"{file} can't be used", error.lines)
    number = f"{settings.watches} {'watch' if settings.watches == 1 else 'watches'}"
    click.echo(f"{file} is valid. The controller will watch {settings.watched}, with {number}.")
    for warning in settings.warnings:
        click.echo(f"  warning: {warning}", err=True)
    for name, provider in settings.providers.items():
        registries = ", ".join(provider.registries)
        click.echo(f"  provider {name}: type {provider.type}, for {registries}; proven {provider.proof_in_words}")
    if settings.grants.asks_namespaces:
        click.echo(f"  grants: {settings.grants}")
    for target in settings.targets:
        click.echo(f"  target {target.name}: {target}")
