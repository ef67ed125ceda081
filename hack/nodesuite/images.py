"""The two images that the suite needs on the node, as archives."""

from dataclasses import dataclass
from pathlib import Path

from hack.imagebuild.builders import Builder
from hack.imagebuild.image import make

ROOT = Path(__file__).parents[2]
CONTROLLER, STANDIN = "localhost/pull-secret-updater:test", "localhost/pull-secret-updater-standin:test"
"""The names that tests/e2e/support/incluster.py and testing/image/manifests.yaml use."""


@dataclass(frozen=True, slots=True)
class Images:
    """The directory of both archives."""

    directory: Path

    @property
    def controller(self) -> Path:
        """The product's image, as an archive in the format of `docker save`."""
        return self.directory / "controller.tar"

    @property
    def standin(self) -> Path:
        """The image with issuer and registry."""
        return self.directory / "standin.tar"

    @property
    def sbom(self) -> Path:
        """The SBOM of the controller's image."""
        return self.directory / "controller.spdx.json"

    def build(self, builder: Builder, *, base: str | None) -> None:
        """Build both, and the SBOM. Raises BuildError, BinariesError."""
        make(builder, tag=CONTROLLER, base=base, saved=self.controller, sbom_file=self.sbom)
        file = ROOT / "testing" / "image" / "Dockerfile"
        builder.build(ROOT, file=file, tag=STANDIN, arguments={"CONTROLLER": CONTROLLER})
        builder.save(STANDIN, self.standin)
