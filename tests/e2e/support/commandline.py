"""The command line as a person gives it, with a kubeconfig; and Secrets in every state, without a controller."""

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from controller.core.annotations import render_instant
from hack.localcluster import kubectl
from testing.controller import COMMAND
from testing.mounted import MountedTokens
from tests.e2e.support.cluster import Cluster

SECONDS = 60.0
DAY = 86_400
CANARY = "canary-" + "0123456789abcdef" * 4
"""The credential in every Secret that these tests make: no command may print it."""

_WRITTEN = {"issued-for": "0123456789abcdef", "fingerprint": "fedcba9876543210", "registries-managed": "cgr.dev"}
REFUSED = (
    "MintRefused: the issuer refused this identity; check that it exists and trusts the ServiceAccount that proves it"
)
CONTESTED = "Fight: another writer keeps reverting the Secret; make that writer leave it alone: argocd-controller"


def command(
    kubeconfig: Path | None, *arguments: str, columns: int | None = None, as_plugin: bool = False
) -> subprocess.CompletedProcess[str]:
    """What it prints and exits with, without a terminal; as a plugin it is found and run by the real kubectl."""
    if as_plugin:
        return kubectl_with_plugin(kubeconfig, "pull-secrets", *arguments, columns=columns)
    return _run([str(COMMAND), *arguments], kubeconfig, columns)


def in_pod(cluster: Cluster, mounted: MountedTokens, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in the controller's Pod, as `kubectl exec` gives it: as its ServiceAccount, without a kubeconfig."""
    host, port = cluster.address()
    environment = {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": str(port),
        "PULL_SECRET_UPDATER_SERVICEACCOUNT_DIR": str(mounted.service_account),
    }
    return subprocess.run(
        [str(COMMAND), *arguments], env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
    )


def kubectl_with_plugin(
    kubeconfig: Path | None, *arguments: str, columns: int | None = None
) -> subprocess.CompletedProcess[str]:
    """The real kubectl, which finds the plugin on PATH."""
    return _run([str(kubectl()), *arguments], kubeconfig, columns)


def _run(program: list[str], kubeconfig: Path | None, columns: int | None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{COMMAND.parent}:{os.environ['PATH']}", "HOME": "/nonexistent", "NO_COLOR": "1"}
    if kubeconfig is not None:
        environment["KUBECONFIG"] = str(kubeconfig)
    if columns is not None:
        environment["COLUMNS"] = str(columns)
    return subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)


def annotations(state: str) -> Mapping[str, str]:
    """Ours, by key without prefix, of a Secret in this state. Instants are days away, so that no test is too slow."""
    soon = {"ends": 5.5 * DAY, "refresh": 3.5 * DAY}
    late = {"ends": 5.5 * DAY, "refresh": -0.5 * DAY}
    over = {"ends": -4.5 * DAY, "refresh": -6.5 * DAY}
    known: dict[str, dict[str, str]] = {
        "valid": _filled(**soon),
        "due": _filled(**late),
        "expired": {**_filled(**over), "error": REFUSED},
        "refused": {**_filled(**late), "error": REFUSED},
        "contested": {**_filled(**soon), "error": CONTESTED},
        "paused": {**_filled(**soon), "paused": "true"},
        "empty": {},
    }
    return known[state]


def _filled(*, ends: float, refresh: float) -> dict[str, str]:
    now = time.time()
    instants = {"issued-at": now - 10 * DAY, "expires-at": now + ends, "refresh-at": now + refresh}
    return {**_WRITTEN, **{key: render_instant(instant) for key, instant in instants.items()}}
