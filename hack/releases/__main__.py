"""The command line of hack/release."""

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from hack.gomodule import BinariesError
from hack.imagebuild import builders
from hack.imagebuild.builders import BuildError
from hack.imagebuild.image import default_base, have_base
from hack.releases import ReleaseError, changelog, inventory, manifests, oci, provenance, python, signature
from hack.releases.source import Source, check_version
from hack.sigterm import leave_on_sigterm

ROOT = Path(__file__).parents[2]
NAME = "pull-secret-updater"
REPRODUCIBLE_FIRST = ("buildah", "podman", "docker")
"""Docker leaves the time of the build on files in its layers."""
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("version")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="directory for the files; it must be new or empty  [default: build/release/VERSION]",
)
@click.option(
    "--repository",
    default=f"registry.example.com/{NAME}",
    show_default=True,
    help="where the image will be; chart and install.yaml name it there, by digest",
)
@click.option(
    "--image",
    "archives",
    type=FILE,
    multiple=True,
    help="an image that is built already, from hack/image --format oci --save; one for each machine  "
    "[default: one is built, for this machine]",
)
@click.option("--base", metavar="IMAGE", help="base image, as for hack/image")
@click.option("--key", type=FILE, help="sign with this key of cosign; COSIGN_PASSWORD opens it")
@click.option("--since", metavar="COMMIT", help="where the changelog begins  [default: the last tag]")
@click.option(
    "--builder", default="urn:pull-secret-updater:hack-release", show_default=True, help="who builds, as a URI"
)
def cli(
    *,
    version: str,
    output: Path | None,
    repository: str,
    archives: tuple[Path, ...],
    base: str | None,
    key: Path | None,
    since: str | None,
    builder: str,
) -> None:
    """Make all files of release VERSION from the commit that is checked out: the same bytes for the same commit.

    It pushes nothing, and needs no service: docs/releases.md says what to do with the files.
    """
    version = version.removeprefix("v")  # as in a tag
    target = (output or ROOT / "build" / "release" / version).resolve()
    leave_on_sigterm()
    try:
        manifests.check_repository(repository)
        source = Source.of(ROOT)
        check_version(ROOT, version)
        changes = changelog.section(ROOT, version=version, date=_date(source.epoch), since=since)
        _check_empty(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix="release-") as scratch,
            # Whoever finds `target` with files finds all of them: it comes into being at once, at the end.
            tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside,
        ):
            exported, made = Path(scratch, "source"), Path(beside, "made")
            source.export(exported)
            made.mkdir()
            built = archives or (_build_image(exported, Path(scratch), source, version=version, base=base),)
            images = [oci.Image.of(archive) for archive in built]
            _make(source, exported, made, version=version, repository=repository, images=images)
            (made / "CHANGELOG.md").write_text(changes)
            files = list(made.iterdir())
            sums, statement = made / "SHA256SUMS", made / "provenance.json"
            bases = sorted({image.base for image in images if image.base})
            told = provenance.statement(files, source, version=version, builder=builder, bases=bases)
            provenance.write(told, statement)
            provenance.write_sums(files, sums)
            if key is not None:
                signature.sign(sums, key=key)
                signature.attest(statement, key=key)
            made.rename(target)
    except (ReleaseError, BuildError, BinariesError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for file in sorted(target.iterdir()):
        click.echo(f"{file.stat().st_size:>12,}  {file.name}")
    click.echo(f"in {target}, {'signed' if key else 'not signed'}")


def _build_image(exported: Path, scratch: Path, source: Source, *, version: str, base: str | None) -> Path:
    """The image's archive, for this machine."""
    builder = builders.with_own_store(builders.find(REPRODUCIBLE_FIRST), scratch)
    tag, archive = f"{NAME}:{version}", scratch / "image.oci.tar"
    named = have_base(builder, base or default_base())  # and never another in its place
    arguments = {"VERSION": version, "REVISION": source.commit, "BASE": named}
    builder.build(exported, file=exported / "Dockerfile", tag=tag, arguments=arguments, epoch=source.epoch)
    builder.save(tag, archive, form="oci")
    return archive


def _make(
    source: Source, exported: Path, target: Path, *, version: str, repository: str, images: Sequence[oci.Image]
) -> None:
    """Write all that is made from the commit's files and the images."""
    epoch = source.epoch
    for image in images:
        if image.revision != source.commit:
            raise ReleaseError(
                f"{image.archive} was built from commit {image.revision or 'unknown'}, and this release is made from "
                f"{source.commit}; build the image again in a checkout of that"
            )
    digest = oci.join(images, target / f"{NAME}-{version}.oci.tar", version=version, epoch=epoch)
    for image in images:
        file = target / f"{NAME}-{version}-{image.platform.replace('/', '-')}.spdx.json"
        inventory.of_image(image.archive, file, name=NAME, version=version, epoch=epoch)
    wheel, _ = python.build(exported, target, epoch=epoch)
    lock = exported / "hack/requirements/runtime.txt"
    inventory.of_wheel(wheel, lock, target / f"{wheel.stem}.spdx.json", version=version, epoch=epoch)
    manifests.name_image(exported, repository=repository, digest=digest)
    manifests.package_chart(exported, target, epoch=epoch)
    manifests.install_yaml(exported, target)


def _check_empty(target: Path) -> None:
    if target.exists() and any(target.iterdir()):
        raise ReleaseError(f"{target} isn't empty; remove it, or choose another --output")


def _date(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d")


if __name__ == "__main__":
    cli(prog_name="hack/release")
