"""`pull-secret-updater run`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Literal

import click

from controller.cli.output import FILE, fail

_PREFIX = "PULL_SECRET_UPDATER_"
_UNUSABLE = "the configuration can't be used"


@click.command(context_settings={"show_default": True})
@click.option("--config", "config_file", type=FILE, envvar=f"{_PREFIX}CONFIG", help="Configuration file (YAML).")
@click.option(
    "--kubeconfig",
    type=FILE,
    envvar=[f"{_PREFIX}KUBECONFIG", "KUBECONFIG"],
    help="Reach the cluster by this file's current context (extra `kubeconfig`); KUBECONFIG does the same, and may "
    "name several. Without either, as a Pod of the cluster.",
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
    help="Where to serve /metrics, /healthz and /readyz. `:8080`: all addresses, IPv4 and IPv6; `[::]:8080`: IPv6.",
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

    Flags complete the configuration file, and must not contradict it. Every flag can be set in the environment:
    PULL_SECRET_UPDATER_ and its name, such as PULL_SECRET_UPDATER_LOG_LEVEL; lists are separated by spaces.
    """
    # Imported here, so that --help and --version answer at once.
    from controller import app, config  # noqa: PLC0415
    from controller.kube.errors import StartError  # noqa: PLC0415
    from controller.observe import logs  # noqa: PLC0415
    from controller.observe.server import Address  # noqa: PLC0415

    given: dict[str, Any] = {"scope": scope, "secretNames": list(secret_names), "namespaces": list(namespaces)}
    address = Address.parse(metrics_address)
    problems = [] if address else [f"--metrics-address: {metrics_address!r} is not HOST:PORT"]
    try:
        settings = config.load(config_file, {key: value for key, value in given.items() if value})
    except config.ConfigError as error:
        fail(_UNUSABLE, [*problems, *error.lines])
    if address is None:
        fail(_UNUSABLE, problems)
    log = logs.configure_logging(log_format=log_format, level=log_level)
    try:
        asyncio.run(app.run(settings, kubeconfig=kubeconfig, metrics_address=address, log=log))
    except StartError as error:
        fail("the controller can't start", [str(error)])
    except Exception as error:
        # Not raised further: the interpreter would print its text, which may quote a credential.
        log.error("the controller ends because of a defect; please report it", error=logs.where(error))
        sys.exit(1)
