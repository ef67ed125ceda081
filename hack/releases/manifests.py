"""What is installed: the chart's package, and install.yaml."""

import re
import subprocess
import tempfile
from pathlib import Path

from hack.chart.helm import HelmError, helm
from hack.localcluster.binaries import kubectl
from hack.releases import tarball
from hack.releases.errors import ReleaseError

_REPOSITORY = re.compile(r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)+")
"""A registry's host and a path there, https://github.com/distribution/reference."""


def check_repository(repository: str) -> None:
    """Raises ReleaseError unless it can be the name of an image, without a tag."""
    if not _REPOSITORY.fullmatch(repository):
        raise ReleaseError(
            f"--repository {repository!r} is no name of an image; write host/path in lower case, "
            "without a scheme and a tag, such as ghcr.io/acme/pull-secret-updater"
        )


def name_image(source: Path, *, repository: str, digest: str) -> None:
    """Let the manifests and the chart in `source` name the image by its digest. Raises ReleaseError."""
    registry, _, path = repository.partition("/")
    values = source / "manifests/chart/values.yaml"
    for key, value in (("registry", registry), ("repository", path), ("digest", digest)):
        _replace(values, rf"^  {key}: .+$", f"  {key}: {value}")
    # What Artifact Hub is told.
    _replace(source / "manifests/chart/Chart.yaml", r"^      image: .+$", f"      image: {repository}@{digest}")
    _replace(
        source / "manifests/kustomization.yaml",
        r"^- \{name: pull-secret-updater, newName: .+\}$",
        f"- {{name: pull-secret-updater, newName: {repository}, digest: '{digest}'}}",
    )


def package_chart(source: Path, target: Path, *, epoch: int) -> Path:
    """Package the chart; the same files give the same bytes. Raises ReleaseError, BinariesError."""
    with tempfile.TemporaryDirectory(prefix="chart-") as scratch:
        try:
            helm("package", source / "manifests/chart", "--destination", scratch)
        except HelmError as error:
            raise ReleaseError(f"helm package failed: {error}") from error
        (made,) = Path(scratch).iterdir()
        package = target / made.name
        package.write_bytes(made.read_bytes())
    tarball.pack_again(package, epoch=epoch)
    return package


def install_yaml(source: Path, target: Path) -> Path:
    """Write what `kubectl apply -k manifests/` applies to one file. Raises ReleaseError, BinariesError."""
    command = [str(kubectl()), "kustomize", str(source / "manifests")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ReleaseError(f"kubectl kustomize failed: {done.stderr.strip()}")
    file = target / "install.yaml"
    file.write_text(done.stdout)
    return file


def _replace(file: Path, pattern: str, line: str) -> None:
    changed, times = re.subn(pattern, line, file.read_text(), flags=re.MULTILINE)
    if times != 1:
        raise ReleaseError(f"{file.name} should have one line that matches {pattern}, and has {times}")
    file.write_text(changed)
