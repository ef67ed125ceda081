"""The CustomResourceDefinitions of Argo CD and Flux, from their pinned Go modules: tests try what the docs show."""

from pathlib import Path

from hack.gomodule import GoPrograms

_MODULES = GoPrograms(name="crds", module=Path(__file__).parent / "tools" / "crds", packages={}, estimate="seconds")
_FILES = (
    ("github.com/argoproj/argo-cd/v3", "manifests/crds/application-crd.yaml"),
    ("github.com/argoproj/argo-cd/v3", "manifests/crds/appproject-crd.yaml"),
    ("github.com/fluxcd/source-controller", "config/crd/bases/*.yaml"),
    ("github.com/fluxcd/kustomize-controller", "config/crd/bases/*.yaml"),
    ("github.com/fluxcd/helm-controller", "config/crd/bases/*.yaml"),
)
"""Modules, and where in them they are."""


def crds() -> list[Path]:
    """Files of YAML, checked against go.sum. Raises BinariesError."""
    return [file for module, pattern in _FILES for file in sorted(_MODULES.source(module).glob(pattern))]
