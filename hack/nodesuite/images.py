"""The two images that the suite needs on the node, as archives."""

from dataclasses import dataclass
from pathlib import Path

from hack.imagebuild.builders import Builder
from hack.imagebuild.image import make

DIRECTORY = Path(__file__).parents[1]
CONTROLLER, STANDIN = "localhost/pull-secret-updater:test", "localhost/pull-secret-updater-standin:test"
"""As tests/e2e/support/incluster.py and hack/standin/image/manifests.yaml name them."""


@dataclass(frozen=True, slots=True)
class Images:
    """Where they are."""

    directory: Path

    @property
    def controller(self) -> Path:
        """The image of the product, in an archive as of `docker save`."""
        return self.directory / "controller.tar"

    @property
    def standin(self) -> Path:
        """Issuer and registry."""
        return self.directory / "standin.tar"

    @property
    def sbom(self) -> Path:
        """Of the controller's image."""
        return self.directory / "controller.spdx.json"

    def build(self, builder: Builder, *, base: str | None) -> None:
        """Both, and the SBOM. Raises BuildError, BinariesError."""
        make(builder, tag=CONTROLLER, base=base, saved=self.controller, sbom_file=self.sbom)
        file = DIRECTORY / "standin" / "image" / "Dockerfile"
        builder.build(DIRECTORY, file=file, tag=STANDIN, arguments={"CONTROLLER": CONTROLLER})
        builder.save(STANDIN, self.standin)
