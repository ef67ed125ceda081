"""What is in an image or a directory, as Syft (https://github.com/anchore/syft) finds it, in SPDX."""

import json
import os
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hack.gomodule import GoPrograms
from hack.imagebuild.builders import BuildError

SYFT = GoPrograms(
    name="syft",
    module=Path(__file__).parents[1] / "tools" / "syft",
    packages={"syft": "github.com/anchore/syft/cmd/syft"},
    estimate="2 to 5 minutes on 2 cores",
)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Package:
    """A package in an SBOM; `kind` is the type in its package URL, such as `deb` or `pypi`."""

    kind: str
    name: str
    version: str


Kind = Literal["docker-archive", "oci-archive", "dir"]
"""What is scanned: an image in one of two formats, or files."""


def write(scanned: Path, target: Path, *, name: str, version: str, kind: Kind = "docker-archive") -> list[Package]:
    """Write the SBOM (SPDX 2.3, JSON) of an image's archive or a directory, and return what is in it.

    Raises:
        BuildError, BinariesError: Syft failed, or can't be built.
    """
    syft = SYFT.find_or_build() / "syft"
    # Only what the package managers recorded, no guesses from file names.
    chosen = ("--override-default-catalogers", "python") if kind == "dir" else ("--select-catalogers", "image,-binary")
    options = ("--source-name", name, "--source-version", version, *chosen, "--quiet")
    command = [str(syft), "scan", f"{kind}:{scanned}", "--output", f"spdx-json={target}", *options]
    environment = {**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false", "SYFT_FORMAT_SPDX_JSON_PRETTY": "true"}
    if subprocess.run(command, stdout=2, env=environment, check=False).returncode != 0:
        raise BuildError("syft failed; see its output above")
    return read(target)


def read(sbom: Path) -> list[Package]:
    """The packages of an SBOM in SPDX JSON, without the image itself."""
    found = (
        Package(kind=kind, name=package["name"], version=package["versionInfo"])
        for package in json.loads(sbom.read_text())["packages"]
        for reference in package.get("externalRefs", [])
        if (kind := _kind(reference)) and kind != "oci"
    )
    return sorted(set(found))


def _kind(reference: dict[str, str]) -> str:
    """The type in a package URL, `pkg:type/...`, empty for other references."""
    if reference["referenceType"] != "purl":
        return ""
    return reference["referenceLocator"].removeprefix("pkg:").partition("/")[0]


def summary(packages: list[Package]) -> str:
    """How many packages of each kind."""
    counts = Counter(package.kind for package in packages)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
