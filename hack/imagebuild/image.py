"""The controller's image: built on its base, saved, and told about."""

import subprocess
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from controller import __version__
from hack.imagebuild import archive, debian, sbom
from hack.imagebuild.builders import Builder, BuildError

ROOT = Path(__file__).parents[2]
DEBOOTSTRAP = "debootstrap"
"""In place of the name of an image to pull: one that is made here."""


def make(builder: Builder, *, tag: str, base: str | None, saved: Path, sbom_file: Path) -> None:
    """Build the image, write it to the archive `saved`, and its SBOM; tell. Raises BuildError, BinariesError."""
    arguments = {"VERSION": __version__, "REVISION": revision(), "BASE": have_base(builder, base)}
    builder.build(ROOT, file=ROOT / "Dockerfile", tag=tag, arguments=arguments)
    builder.save(tag, saved)
    sbom_file.parent.mkdir(parents=True, exist_ok=True)
    packages = sbom.write(saved, sbom_file, name="pull-secret-updater", version=__version__)
    tell(tag, archive.layer_sizes(saved), packages)
    click.echo(f"SBOM: {sbom_file}")


def have_base(builder: Builder, wanted: str | None) -> str:
    """The name of the base image, which the builder has by then. Raises BuildError."""
    if wanted == DEBOOTSTRAP:
        builder.load(debian.PYTHON.made())
        return debian.PYTHON.name
    image = wanted or default_base()
    if builder.has(image):
        return image
    if wanted:
        raise BuildError(f"{image} can't be pulled: `{builder.name} pull {image}` tells why")
    click.echo(f"{image} can't be pulled: on a base made with debootstrap instead, which is no release", err=True)
    return have_base(builder, DEBOOTSTRAP)


def default_base() -> str:
    """What the Dockerfile stands on."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return next(line.removeprefix("ARG BASE=") for line in lines if line.startswith("ARG BASE="))


def revision() -> str:
    """The commit, with `-dirty` if there is more than is committed; `unknown` outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def tell(tag: str, layers: list[int], packages: list[sbom.Package]) -> None:
    """Size and packages, on stdout."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table("kind", "package", "version", box=None)
    for package in packages:
        table.add_row(package.kind, package.name, package.version)
    console.print(table)
    console.print(f"{tag}: {sum(layers) / 1e6:.1f} MB unpacked, of which {layers[-1] / 1e6:.1f} MB on top of the base")
    console.print(f"packages: {sbom.summary(packages)}")
