"""Helm (https://helm.sh), built from its pinned Go module."""

import subprocess
from pathlib import Path

from hack.gomodule import GoPrograms

ROOT = Path(__file__).parents[2]
CHART = ROOT / "manifests" / "chart"
KUBE_VERSION = "1.37.0"
"""Of the cluster that a chart is rendered for: Helm built from its module takes any cluster for v1.20."""

HELM = GoPrograms(
    name="helm",
    module=ROOT / "hack" / "tools" / "helm",
    packages={"helm": "helm.sh/helm/v3/cmd/helm"},
    estimate="2 to 4 minutes on 2 cores",
)


class HelmError(Exception):
    """Helm failed; the message is what it said."""


def helm(*arguments: str | Path) -> str:
    """What Helm prints. Raises HelmError, BinariesError."""
    command = [str(HELM.find_or_build() / "helm"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # It says of each link in the chart that it follows it.
        told = [line for line in done.stderr.splitlines() if "found symbolic link" not in line]
        raise HelmError("\n".join(told).strip() or done.stdout.strip())
    return done.stdout


if __name__ == "__main__":  # so that the progress of a build is seen
    HELM.find_or_build()
