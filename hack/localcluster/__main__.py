"""The command line of hack/cluster."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hack.gomodule import BinariesError
from hack.localcluster import clusters, packages
from hack.localcluster.binaries import built, find_or_build, node_programs
from hack.localcluster.controlplane import ControlPlaneError
from hack.localcluster.packages import PackagesError
from hack.localcluster.wire import WireError
from hack.sigterm import leave_on_sigterm

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _checked_name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if NAME.fullmatch(value) is None:  # it becomes a directory
        raise click.BadParameter("lower-case letters, digits and '-' only")
    return value


name_option = click.option("--name", default="default", show_default=True, callback=_checked_name)


node_option = click.option(
    "--node", is_flag=True, help="With a kubelet, containerd and whatever else Pods need; as root."
)
ERRORS = (BinariesError, ControlPlaneError, PackagesError, WireError, OSError)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Manage local Kubernetes clusters: kube-apiserver and etcd without containers; with --node, also one real node."""
    leave_on_sigterm()


@cli.command()
@node_option
def build(node: bool) -> None:
    """Build the programs if they are missing, and print where they are; `up` is quick afterwards."""
    with _readable_errors():
        click.echo((built() if node else find_or_build()).apiserver.parent)
        if node:
            click.echo(node_programs().find_or_build())


@cli.command("packages")
@click.option(
    "--image-tools", is_flag=True, help="Also install buildah and debootstrap, for hack/image without Docker."
)
def install_packages(image_tools: bool) -> None:
    """Install the Debian packages that a node needs and this machine lacks. Needs root; removes nothing."""
    with _readable_errors():
        installed = packages.install(image_tools=image_tools)
        click.echo(f"installed: {', '.join(installed)}" if installed else "nothing to install")


@cli.command()
@name_option
@node_option
def up(name: str, node: bool) -> None:
    """Start a cluster, unless it is running, and print the path of its kubeconfig."""
    with _readable_errors():
        click.echo(clusters.up(name, node=node))


@cli.command()
@name_option
@click.argument("archives", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def load(name: str, archives: tuple[Path, ...]) -> None:
    """Load images into a cluster's node, from archives as `docker save` and `hack/image --save` write them."""
    with _readable_errors():
        for archive in archives:
            clusters.load_image(name, archive)


@cli.command()
@name_option
@click.option("--all", "every", is_flag=True, help="All clusters of this user.")
def down(name: str, every: bool) -> None:
    """Stop a cluster, and remove its data and every trace of its node."""
    with _readable_errors():
        for victim in [cluster.name for cluster in clusters.clusters()] if every else [name]:
            clusters.down(victim)


@cli.command()
def status() -> None:
    """List the clusters of this user."""
    for cluster in clusters.clusters():
        state = "running" if cluster.running() else "not running"
        pids = " ".join(f"{program}={known.pid}" for program, known in cluster.processes.items())
        click.echo(f"{cluster.name}\t{state}\t{cluster.url}\t{cluster.kubeconfig}\t{pids}")


@contextmanager
def _readable_errors() -> Iterator[None]:
    try:
        yield
    except ERRORS as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    cli(prog_name="hack/cluster")
