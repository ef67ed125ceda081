"""Helm (https://helm.sh), built from its pinned Go modules: 3, which most people have, and 4."""

import subprocess
from pathlib import Path
from typing import Literal

from hack.gomodule import GoPrograms

ROOT = Path(__file__).parents[2]
CHART = ROOT / "manifests" / "chart"
KUBE_VERSION = "1.37.0"
"""Of the cluster that a chart is rendered for: Helm built from its module takes any cluster for v1.20."""

Major = Literal[3, 4]


def _programs(name: str, major: Major) -> GoPrograms:
    return GoPrograms(
        name=name,
        module=ROOT / "hack" / "tools" / name,
        packages={"helm": f"helm.sh/helm/v{major}/cmd/helm"},
        estimate="2 to 4 minutes on 2 cores",
    )


HELM: dict[Major, GoPrograms] = {3: _programs("helm", 3), 4: _programs("helm4", 4)}


class HelmError(Exception):
    """Helm failed; the message is what it said."""


def helm(*arguments: str | Path, major: Major = 3) -> str:
    """What Helm prints. Raises HelmError, BinariesError."""
    command = [str(HELM[major].find_or_build() / "helm"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # It says of each link in the chart that it follows it.
        told = [line for line in done.stderr.splitlines() if "found symbolic link" not in line]
        raise HelmError("\n".join(told).strip() or done.stdout.strip())
    return done.stdout
