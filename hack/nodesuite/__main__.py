"""The command line of hack/e2e-node."""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hack.chart import HELM
from hack.gomodule import BinariesError
from hack.imagebuild import builders
from hack.imagebuild.builders import BuildError
from hack.localcluster import ControlPlaneError, NodeCluster, packages
from hack.localcluster.binaries import built, node_programs
from hack.localcluster.packages import PackagesError
from hack.localcluster.wire import WireError
from hack.nodesuite.images import Images
from hack.nodesuite.suite import local, suite
from hack.sigterm import leave_on_sigterm

PYTEST = {"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}


@click.command(context_settings=PYTEST)
@click.option(
    "--kubeconfig", type=click.Path(exists=True, path_type=Path), help="use a cluster whose nodes have both images"
)
@click.option("--base", metavar="IMAGE", help="base image, as for hack/image")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def cli(*, kubeconfig: Path | None, base: str | None, arguments: tuple[str, ...]) -> None:
    """Build the images, start a cluster with a node, and let Pods pull. ARGUMENTS, such as `-k steady`, go to pytest.

    Needs root, and what `hack/cluster packages` installs. Leaves nothing, except images that are in Docker.
    """
    leave_on_sigterm()
    try:
        with _step("Helm"):  # before pytest, which would hide the progress and stop it
            HELM[3].find_or_build()
        code = suite(kubeconfig, *arguments) if kubeconfig else on_our_own(base, *arguments)
    except (BinariesError, BuildError, ControlPlaneError, PackagesError, WireError, OSError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(code)


def on_our_own(base: str | None, *arguments: str) -> int:
    """Set up everything, and run the tests; returns pytest's exit code."""
    packages.check()
    with _step("programs"):  # before pytest, which would hide the progress
        built()
        node_programs().find_or_build()
    with tempfile.TemporaryDirectory(prefix="e2e-node-") as scratch:
        images = Images(Path(scratch))
        with _step("build both images"), tempfile.TemporaryDirectory(prefix="image-store-") as store:
            images.build(builders.with_own_store(builders.find(), Path(store)), base=base)
        code = 0
        if not arguments:  # arguments select tests of the suite
            with _step("tests of the local node and the image"):
                code = local(Path(scratch), base=base)
        with NodeCluster() as cluster:
            with _step("load the images into the node"):
                cluster.load(images.controller)
                cluster.load(images.standin)
            with _step("tests with Pods that pull"):
                return suite(cluster.plane.kubeconfig, *arguments) or code


@contextmanager
def _step(title: str) -> Iterator[None]:
    began = time.monotonic()
    click.echo(f"=== {title}")
    yield
    click.echo(f"=== {title}: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    cli(prog_name="hack/e2e-node")
