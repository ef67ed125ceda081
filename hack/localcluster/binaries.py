"""Where etcd and kube-apiserver come from.

In this order: KUBEBUILDER_ASSETS; the store of setup-envtest; our own cache; else they are built into that cache from
the Go modules that hack/controlplane pins (build.py), once per user. Nothing is ever downloaded as a binary by us.
"""

import hashlib
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODULE = Path(__file__).parents[1] / "controlplane"
OLDEST = (1, 30)
"""The oldest Kubernetes that we support: ValidatingAdmissionPolicy is v1 since."""


class BinariesError(Exception):
    """The control plane's programs are not where they should be, or can't be built; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """Two programs of one origin."""

    etcd: Path
    apiserver: Path
    origin: str

    @classmethod
    def of(cls, directory: Path, *, origin: str) -> "Binaries | None":
        """The programs in this directory, if both are there and can be run."""
        found = cls(etcd=directory / "etcd", apiserver=directory / "kube-apiserver", origin=origin)
        return found if all(os.access(path, os.X_OK) for path in (found.etcd, found.apiserver)) else None


def find(environment: Mapping[str, str] = os.environ) -> Binaries | None:
    """The programs that are already on this machine, or None.

    Raises:
        BinariesError: KUBEBUILDER_ASSETS is set but wrong. Who sets it means it; to take others silently would lie.
    """
    if assets := environment.get("KUBEBUILDER_ASSETS"):
        named = Binaries.of(Path(assets), origin="KUBEBUILDER_ASSETS")
        if named is None:
            raise BinariesError(f"KUBEBUILDER_ASSETS={assets} has no etcd and kube-apiserver in it")
        return named
    return _envtest(environment) or Binaries.of(cache(environment), origin="built from hack/controlplane")


def kubectl() -> Path:
    """The kubectl of the virtual environment that runs us, pinned in hack/requirements."""
    path = Path(sysconfig.get_path("scripts")) / "kubectl"
    if not path.exists():
        raise BinariesError(f"{path} is missing: run hack/venv, and use .venv/bin/python")
    return path


def user_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """What may be deleted at any time and is then made again; shared by all checkouts of a user."""
    root = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "pull-secret-updater"


def cache(environment: Mapping[str, str] = os.environ) -> Path:
    """The directory of what this checkout's pins build to; other pins have another one."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((MODULE / name).read_bytes())
    digest.update(f"{ldflags()} {sys.platform} {platform.machine()}".encode())
    return user_cache(environment) / f"controlplane-{kubernetes_version()}-{digest.hexdigest()[:12]}"


def kubernetes_version() -> str:
    """The version that hack/controlplane/go.mod pins, such as v1.37.2."""
    pinned = re.search(r"^\s*k8s\.io/kubernetes (v1\.\d+\.\d+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if pinned is None:
        raise BinariesError(f"{MODULE / 'go.mod'} pins no k8s.io/kubernetes")
    return pinned[1]


def ldflags() -> str:
    """Flags without which the server calls itself v0.0.0-master, which clients that check versions refuse."""
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    package = "k8s.io/component-base/version"
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s -w", *(f"-X {package}.{name}={value}" for name, value in values.items())])


def _envtest(environment: Mapping[str, str]) -> Binaries | None:
    """The newest of setup-envtest's store that is new enough.

    https://pkg.go.dev/sigs.k8s.io/controller-runtime/tools/setup-envtest/store
    """
    root = environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    stored = (Path(root) / "kubebuilder-envtest" / "k8s").glob(f"*.*.*-{sys.platform}-{machine}")
    versions = [(tuple(map(int, re.findall(r"\d+", path.name)[:3])), path) for path in stored]
    for version, directory in sorted(versions, reverse=True):
        if version[:2] >= OLDEST and (found := Binaries.of(directory, origin="setup-envtest")):
            return found
    return None
