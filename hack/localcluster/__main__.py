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


node_option = click.option("--node", is_flag=True, help="With a kubelet, containerd and all that Pods need; as root.")
ERRORS = (BinariesError, ControlPlaneError, PackagesError, WireError, OSError)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Local Kubernetes clusters: kube-apiserver and etcd without containers; with --node, one real node too."""
    leave_on_sigterm()


@cli.command()
@node_option
def build(node: bool) -> None:
    """Have the programs on this machine, built if need be, and print where: so that `up` is quick later."""
    with _told():
        click.echo((built() if node else find_or_build()).apiserver.parent)
        if node:
            click.echo(node_programs().find_or_build())


@cli.command("packages")
@click.option("--image-tools", is_flag=True, help="Also buildah and debootstrap, for hack/image without Docker.")
def install_packages(image_tools: bool) -> None:
    """Install the Debian packages that a node needs and this machine hasn't got. Needs root; removes nothing."""
    with _told():
        installed = packages.install(image_tools=image_tools)
        click.echo(f"installed: {', '.join(installed)}" if installed else "all there")


@cli.command()
@name_option
@node_option
def up(name: str, node: bool) -> None:
    """Start a cluster, if it doesn't run, and print the path of its kubeconfig."""
    with _told():
        click.echo(clusters.up(name, node=node))


@cli.command()
@name_option
@click.argument("archives", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def load(name: str, archives: tuple[Path, ...]) -> None:
    """Give the node of a cluster the images of archives, as `docker save` and `hack/image --save` write them."""
    with _told():
        for archive in archives:
            clusters.load_image(name, archive)


@cli.command()
@name_option
@click.option("--all", "every", is_flag=True, help="All of this user's, whatever their names.")
def down(name: str, every: bool) -> None:
    """End a cluster and remove its data, and every trace of its node."""
    with _told():
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
def _told() -> Iterator[None]:
    try:
        yield
    except ERRORS as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    cli(prog_name="hack/cluster")
