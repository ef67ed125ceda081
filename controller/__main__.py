"""The command line: `pull-secret-updater run` and `pull-secret-updater check-config`."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from controller import __version__

_PREFIX = "PULL_SECRET_UPDATER_"
_UNUSABLE = "the configuration can't be used"
_PORT = re.compile(r"[0-9]{1,5}")
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pull-secret-updater")
def main() -> None:
    """Keeps image pull Secrets filled with short-lived registry tokens."""


@main.command(context_settings={"show_default": True})
@click.option("--config", "config_file", type=_FILE, envvar=f"{_PREFIX}CONFIG", help="Configuration file (YAML).")
@click.option(
    "--kubeconfig",
    type=_FILE,
    envvar=f"{_PREFIX}KUBECONFIG",
    help="Reach the cluster by this file's current context (extra `kubeconfig`); without it, as a Pod of the cluster.",
)
@click.option(
    "--scope",
    metavar="[name|namespaces|cluster]",
    envvar=f"{_PREFIX}SCOPE",
    help="Which Secrets to watch: by name in all namespaces, in some namespaces, or all.",
)
@click.option(
    "--secret-name", "secret_names", multiple=True, envvar=f"{_PREFIX}SECRET_NAME", help="In scope name; repeatable."
)
@click.option(
    "--namespace", "namespaces", multiple=True, envvar=f"{_PREFIX}NAMESPACE", help="In scope namespaces; repeatable."
)
@click.option(
    "--metrics-address",
    default="127.0.0.1:8080",
    envvar=f"{_PREFIX}METRICS_ADDRESS",
    metavar="HOST:PORT",
    help="Where /metrics, /healthz and /readyz are served.",
)
@click.option("--log-format", type=click.Choice(["json", "console"]), default="json", envvar=f"{_PREFIX}LOG_FORMAT")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    envvar=f"{_PREFIX}LOG_LEVEL",
)
def run(
    *,
    config_file: Path | None,
    kubeconfig: Path | None,
    scope: str | None,
    secret_names: tuple[str, ...],
    namespaces: tuple[str, ...],
    metrics_address: str,
    log_format: Literal["json", "console"],
    log_level: str,
) -> None:
    """Run the controller until SIGTERM or SIGINT.

    Flags win over the configuration file. Every flag can be set in the environment: PULL_SECRET_UPDATER_ and its name,
    such as PULL_SECRET_UPDATER_LOG_LEVEL; lists are separated by blanks.
    """
    # Imported here, so that --help and --version answer at once.
    from controller import app, config, guard, telemetry  # noqa: PLC0415

    given: dict[str, Any] = {"scope": scope, "secretNames": list(secret_names), "namespaces": list(namespaces)}
    address = _host_and_port(metrics_address)
    problems = [] if address else [f"--metrics-address: {metrics_address!r} is not HOST:PORT"]
    try:
        settings = config.load(config_file, {key: value for key, value in given.items() if value})
    except config.ConfigError as error:
        _fail(_UNUSABLE, [*problems, *error.problems])
    if address is None:
        _fail(_UNUSABLE, problems)
    host, port = address
    log = telemetry.configure_logging(log_format=log_format, level=log_level)
    try:
        asyncio.run(app.run(settings, kubeconfig=kubeconfig, metrics_host=host, metrics_port=port, log=log))
    except guard.StartError as error:
        _fail("the controller can't start", [str(error)])
    except Exception as error:
        # Not raised further: the interpreter would print its words, and those may quote what it choked on.
        log.error("the controller ends because of a defect; please report it", error=telemetry.where(error))
        sys.exit(1)


@main.command("check-config")
@click.argument("file", type=_FILE)
def check_config(file: Path) -> None:
    """Check a configuration FILE and print everything that is wrong with it."""
    from controller import config  # noqa: PLC0415

    try:
        settings = config.load(file)
    except config.ConfigError as error:
        _fail(f"{file} can't be used", error.problems)
    click.echo(f"{file} is right: scope {settings.scope}, providers {', '.join(sorted(settings.providers))}")


def _host_and_port(address: str) -> tuple[str, int] | None:
    host, separator, port = address.rpartition(":")
    if not separator or not _PORT.fullmatch(port) or int(port) > 65535:
        return None
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 -- `:8080` means all, as everywhere


def _fail(sentence: str, problems: list[str]) -> NoReturn:
    click.echo(f"pull-secret-updater: {sentence}:", err=True)
    for problem in problems:
        click.echo(f"  {problem}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
