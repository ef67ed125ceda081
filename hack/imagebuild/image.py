"""The controller's image: build it, save it, and report its size and packages."""

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
"""Given instead of an image's name: build a base here."""


def make(
    builder: Builder,
    *,
    tag: str,
    base: str | None,
    saved: Path,
    sbom_file: Path,
    architecture: str = archive.MACHINE,
) -> None:
    """Build the image, save it to `saved`, write its SBOM, and report both. Raises BuildError, BinariesError."""
    used = have_base(builder, base, architecture=architecture)
    arguments = {"VERSION": __version__, "REVISION": revision(), "BASE": used}
    builder.build(
        ROOT, file=ROOT / "Dockerfile", tag=tag, arguments=arguments, architecture=architecture, epoch=committed()
    )
    builder.save(tag, saved)
    sbom_file.parent.mkdir(parents=True, exist_ok=True)
    packages = sbom.write(saved, sbom_file, name="pull-secret-updater", version=__version__)
    report(tag, archive.layer_sizes(saved), packages)
    click.echo(f"SBOM: {sbom_file}")


def have_base(builder: Builder, wanted: str | None, *, architecture: str = archive.MACHINE) -> str:
    """Make sure that the builder has the base image; return its name. Raises BuildError."""
    if wanted == DEBOOTSTRAP:
        python = debian.python(architecture)
        builder.load(python.made())
        return python.name
    image = wanted or default_base()
    if builder.has(image, architecture=architecture):
        return image
    if wanted:
        raise BuildError(f"{image} can't be pulled; run `{builder.name} pull {image}` to see why")
    click.echo(
        f"{image} can't be pulled; using a base from debootstrap instead (for tests, not for releases)", err=True
    )
    return have_base(builder, DEBOOTSTRAP, architecture=architecture)


def default_base() -> str:
    """The base image that the Dockerfile names."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return next(line.removeprefix("ARG BASE=") for line in lines if line.startswith("ARG BASE="))


def revision() -> str:
    """The commit, with `-dirty` if there are uncommitted changes; `unknown` outside a checkout."""
    return _git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*") or "unknown"


def committed() -> int | None:
    """When it was committed, in seconds since the epoch."""
    found = _git("log", "-1", "--format=%ct")
    return int(found) if found else None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def report(tag: str, layers: list[int], packages: list[sbom.Package]) -> None:
    """Print size and packages on stdout."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table("kind", "package", "version", box=None)
    for package in packages:
        table.add_row(package.kind, package.name, package.version)
    console.print(table)
    console.print(f"{tag}: {sum(layers) / 1e6:.1f} MB unpacked, {layers[-1] / 1e6:.1f} MB of it on top of the base")
    console.print(f"packages: {sbom.summary(packages)}")
