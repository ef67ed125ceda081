"""hack/cluster as a person types it, and kubectl with what it gives."""

import subprocess
from pathlib import Path

from hack.localcluster import kubectl
from tests.e2e.support.installed import ROOT


def hack_cluster(*arguments: str, environment: dict[str, str]) -> str:
    """What hack/cluster prints on stdout. Raises CalledProcessError."""
    command = [str(ROOT / "hack" / "cluster"), *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=100).stdout


def run_kubectl(kubeconfig: Path | str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """kubectl with this kubeconfig, whatever comes of it."""
    command = [str(kubectl()), "--kubeconfig", str(kubeconfig), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
