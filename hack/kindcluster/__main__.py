"""The command line of hack/kind: the node suite on a kind cluster (https://kind.sigs.k8s.io), in Docker."""

import shutil
import sys
import tempfile
from pathlib import Path

import click

from hack.gomodule import BinariesError
from hack.imagebuild import builders
from hack.imagebuild.builders import BuildError
from hack.imagebuild.image import DEBOOTSTRAP
from hack.kindcluster import nodeimage
from hack.kindcluster.cluster import CONTEXT, KindCluster
from hack.nodesuite.images import Images
from hack.nodesuite.suite import suite
from hack.sigterm import leave_on_sigterm

NO_DOCKER = (
    "kind runs its nodes in Docker, which doesn't work here; start it, or install it from "
    "https://docs.docker.com/engine/install. hack/e2e-node runs the same tests without Docker, on a local node"
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Run the node suite on a kind cluster."""


@cli.command(context_settings={"ignore_unknown_options": True})
@click.option("--image", help=f"node image; {DEBOOTSTRAP}: build one here, as root [default: kind's own]")
@click.option("--base", metavar="IMAGE", help="base image, as for hack/image")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def up(*, image: str | None, base: str | None, arguments: tuple[str, ...]) -> None:
    """Create the cluster, load both images, and run the node suite on it; the cluster stays until `down`.

    ARGUMENTS, such as `-k steady`, go to pytest.
    """
    leave_on_sigterm()
    try:
        docker = builders.find(("docker",), otherwise=NO_DOCKER)
        cluster = KindCluster(program=pinned() if image == DEBOOTSTRAP else kind())
        with tempfile.TemporaryDirectory(prefix="kind-") as scratch:
            images, kubeconfig = Images(Path(scratch)), Path(scratch, "kubeconfig")
            if not cluster.ensure(lambda: node_options(docker, image)):
                click.echo(
                    "using the existing cluster; for one with a different node image, run hack/kind down first",
                    err=True,
                )
            cluster.write_kubeconfig(kubeconfig)
            images.build(docker, base=base)
            cluster.load(images.controller, images.standin)
            code = suite(kubeconfig, *arguments)
    except (BinariesError, BuildError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"the cluster keeps running: kubectl --context {CONTEXT}; hack/kind down removes it", err=True)
    sys.exit(code)


@cli.command()
def down() -> None:
    """Delete the cluster. Fine if there is none."""
    try:
        KindCluster(program=kind()).delete()
    except (BinariesError, BuildError) as error:
        raise click.ClickException(str(error)) from error


def kind() -> str:
    """The kind on PATH, else ours. Raises BinariesError."""
    return shutil.which("kind") or pinned()


def pinned() -> str:
    """Our kind, which fits our node image. Raises BinariesError."""
    return str(nodeimage.KIND.find_or_build() / "kind")


def node_options(docker: builders.Builder, image: str | None) -> list[str]:
    """The options with which kind creates the node. Raises BuildError, BinariesError, OSError."""
    if image == DEBOOTSTRAP:
        return ["--image", nodeimage.build(docker), "--config", str(nodeimage.CLUSTER)]
    return ["--image", image] if image else []


if __name__ == "__main__":
    cli(prog_name="hack/kind")
