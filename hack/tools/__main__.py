"""Builds or fetches what the tests need: pytest would hide the progress, and stop what takes long."""

from hack.chart import HELM
from hack.crds import crds
from hack.fluxhealth import FLUX_HEALTH
from hack.imagebuild.sbom import SYFT
from hack.monitoring.prometheus import PROMETHEUS
from hack.releases.signature import COSIGN

for programs in (*HELM.values(), PROMETHEUS, SYFT, COSIGN, FLUX_HEALTH):
    programs.find_or_build()
crds()
