"""The command line of hack/cluster."""

import re
import signal
import sys
from types import FrameType

import click

from hack.localcluster import clusters
from hack.localcluster.binaries import BinariesError
from hack.localcluster.build import find_or_build
from hack.localcluster.controlplane import ControlPlaneError

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _checked_name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if NAME.fullmatch(value) is None:  # it becomes a directory
        raise click.BadParameter("lower-case letters, digits and '-' only")
    return value


name_option = click.option("--name", default="default", show_default=True, callback=_checked_name)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Local Kubernetes control planes: kube-apiserver and etcd, without containers."""
    # Also on SIGTERM leave through the `except` and `finally` that end what was started.
    signal.signal(signal.SIGTERM, _exit)


@cli.command()
def build() -> None:
    """Have the programs on this machine, built if need be, and print where: so that `up` is quick later."""
    try:
        click.echo(find_or_build().apiserver.parent)
    except BinariesError as error:
        raise click.ClickException(str(error)) from error


@cli.command()
@name_option
def up(name: str) -> None:
    """Start a control plane, if it doesn't run, and print the path of its kubeconfig."""
    try:
        click.echo(clusters.up(name))
    except (BinariesError, ControlPlaneError) as error:
        raise click.ClickException(str(error)) from error


@cli.command()
@name_option
@click.option("--all", "every", is_flag=True, help="All of this user's, whatever their names.")
def down(name: str, every: bool) -> None:
    """End a control plane and remove its data."""
    for victim in [cluster.name for cluster in clusters.clusters()] if every else [name]:
        clusters.down(victim)


@cli.command()
def status() -> None:
    """List the control planes of this user."""
    for cluster in clusters.clusters():
        state = "running" if cluster.running() else "not running"
        pids = " ".join(f"{program}={known.pid}" for program, known in cluster.processes.items())
        click.echo(f"{cluster.name}\t{state}\t{cluster.url}\t{cluster.kubeconfig}\t{pids}")


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    cli()
