"""Builds what the tests need, before pytest, which would hide the progress and stop a build that takes long."""

from hack.chart import HELM
from hack.imagebuild.sbom import SYFT
from hack.releases.signature import COSIGN

for programs in (*HELM.values(), SYFT, COSIGN):
    programs.find_or_build()
