"""The command line of hack/kind: the node suite on a cluster of kind (https://kind.sigs.k8s.io), in Docker."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from hack.gomodule import BinariesError, GoPrograms
from hack.imagebuild import builders
from hack.imagebuild.builders import BuildError
from hack.nodesuite.images import Images
from hack.nodesuite.suite import suite

KIND = GoPrograms(
    name="kind",
    module=Path(__file__).parents[1] / "tools" / "kind",
    packages={"kind": "sigs.k8s.io/kind"},
    estimate="half a minute",
)
NAME = "pull-secret-updater"
NO_DOCKER = (
    "kind runs its nodes in Docker, which doesn't work here: start it, or get it from "
    "https://docs.docker.com/engine/install. Without it, hack/e2e-node runs the same tests on a node of its own"
)
NO_CLUSTER = (
    "kind made no cluster; its own words are above. If it could not pull its node image: `docker save` one where "
    "it can be had (https://github.com/kubernetes-sigs/kind/releases), `docker load` it here, and name it with --image"
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """The node suite on a cluster of kind."""


@cli.command()
@click.option("--image", help="of the node [default: kind's own]")
@click.option("--base", metavar="IMAGE", help="of hack/image")
def up(*, image: str | None, base: str | None) -> None:
    """Create the cluster, give it both images and run the node suite in it; it stays until `down`."""
    try:
        builder, program = builders.find(("docker",), otherwise=NO_DOCKER), kind()
        with tempfile.TemporaryDirectory(prefix="kind-") as scratch:
            images, kubeconfig = Images(Path(scratch)), Path(scratch, "kubeconfig")
            create(program, image, kubeconfig)
            images.build(builder, base=base)
            load(program, images)
            code = suite(kubeconfig)
    except (BinariesError, BuildError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"the cluster stays: kubectl --context kind-{NAME}; hack/kind down removes it", err=True)
    sys.exit(code)


@cli.command()
def down() -> None:
    """Delete the cluster. Fine if there is none."""
    try:
        sys.exit(subprocess.run([kind(), "delete", "cluster", "--name", NAME], check=False).returncode)
    except BinariesError as error:
        raise click.ClickException(str(error)) from error


def kind() -> str:
    """The one of PATH, else the one that is pinned here. Raises BinariesError."""
    return shutil.which("kind") or str(KIND.find_or_build() / "kind")


def create(program: str, image: str | None, kubeconfig: Path) -> None:
    """Have the cluster, which may be there already, in kubectl's own configuration and in a file. Raises BuildError."""
    named = ["--name", NAME]
    there = subprocess.run([program, "get", "clusters"], capture_output=True, text=True, check=False)
    if NAME not in there.stdout.split():
        options = ["--image", image] if image else []
        if subprocess.run([program, "create", "cluster", *named, "--wait", "2m", *options], check=False).returncode:
            raise BuildError(NO_CLUSTER)
    written = subprocess.run([program, "get", "kubeconfig", *named], stdout=subprocess.PIPE, text=True, check=False)
    if written.returncode != 0:
        raise BuildError("kind gave no kubeconfig; its own words are above")
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(written.stdout)


def load(program: str, images: Images) -> None:
    """Give the node both images. Raises BuildError."""
    command = [program, "load", "image-archive", "--name", NAME, str(images.controller), str(images.standin)]
    if subprocess.run(command, check=False).returncode != 0:
        raise BuildError("kind did not take the images; its own words are above")


if __name__ == "__main__":
    cli()
