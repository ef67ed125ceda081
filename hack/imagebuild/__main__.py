"""The command line of hack/image."""

import tempfile
from pathlib import Path

import click

from controller import __version__
from hack.gomodule import BinariesError
from hack.imagebuild import builders
from hack.imagebuild.archive import MACHINE
from hack.imagebuild.builders import BuildError, Format
from hack.imagebuild.image import DEBOOTSTRAP, ROOT, make


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--tag", default=f"pull-secret-updater:{__version__}", show_default=True, help="the image's name")
@click.option("--base", metavar="IMAGE", help=f"base image; {DEBOOTSTRAP}: build one here [default: the Dockerfile's]")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="also write the image to this archive")
@click.option(
    "--format",
    "form",
    type=click.Choice(["docker", "oci"]),
    default="docker",
    show_default=True,
    help="of that archive: as `docker save` writes it, or OCI's image layout",
)
@click.option(
    "--builder", "name", type=click.Choice(builders.ALL), help="the tool to build with  [default: the first that works]"
)
@click.option(
    "--architecture",
    default=MACHINE,
    show_default="this machine's",
    help="such as arm64; for another than this machine's, its kernel must run such programs (QEMU)",
)
@click.option(
    "--sbom",
    "sbom_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=ROOT / "build" / "pull-secret-updater.spdx.json",
    show_default="build/pull-secret-updater.spdx.json",
    help="where to write the SBOM",
)
def cli(
    *,
    tag: str,
    base: str | None,
    save: Path | None,
    form: Format,
    name: str | None,
    architecture: str,
    sbom_file: Path,
) -> None:
    """Build the controller's image with docker, podman or buildah, print size and packages, write an SBOM (SPDX)."""
    try:
        with tempfile.TemporaryDirectory(prefix="image-") as scratch:
            builder, ours = builders.find((name,) if name else builders.ALL), Path(scratch, "image.tar")
            saved = save.resolve() if save and form == "docker" else ours
            make(builder, tag=tag, base=base, saved=saved, sbom_file=sbom_file, architecture=architecture)
            if save and form == "oci":
                builder.save(tag, save.resolve(), form=form)
    except (BuildError, BinariesError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    cli(prog_name="hack/image")
