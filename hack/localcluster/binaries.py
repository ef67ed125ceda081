"""Where the programs of a cluster come from.

etcd and kube-apiserver come from KUBEBUILDER_ASSETS, else from setup-envtest's store, else from the Go module that
hack/controlplane pins. The other programs of a node always come from that module: all must have the same version.
"""

import os
import platform
import re
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hack.gomodule import BinariesError, GoPrograms

MODULE = Path(__file__).parents[1] / "controlplane"
OLDEST = (1, 30)
"""The oldest Kubernetes that we support: the first with ValidatingAdmissionPolicy v1."""
ETCD_AND_APISERVER = {"etcd": "go.etcd.io/etcd/server/v3", "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver"}
NODE = {
    **{
        name: f"k8s.io/kubernetes/cmd/{name}"
        for name in ("kube-scheduler", "kube-controller-manager", "kubelet", "kube-proxy")
    },
    "pause": "controlplane/pause",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """Both programs, from one origin."""

    etcd: Path
    apiserver: Path
    origin: str

    @classmethod
    def of(cls, directory: Path, *, origin: str) -> "Binaries | None":
        """The programs in this directory, if both are there and executable."""
        found = cls(etcd=directory / "etcd", apiserver=directory / "kube-apiserver", origin=origin)
        return found if all(os.access(path, os.X_OK) for path in (found.etcd, found.apiserver)) else None


def find_or_build(environment: Mapping[str, str] = os.environ) -> Binaries:
    """etcd and kube-apiserver; builds them if there are none, with progress on stderr.

    Raises:
        BinariesError: as `find`, and if they can't be built.
    """
    return find(environment) or built(environment)


def find(environment: Mapping[str, str] = os.environ) -> Binaries | None:
    """etcd and kube-apiserver that are already on this machine, or None.

    Raises:
        BinariesError: KUBEBUILDER_ASSETS is set but wrong; silently using other programs would be misleading.
    """
    if assets := environment.get("KUBEBUILDER_ASSETS"):
        named = Binaries.of(Path(assets), origin="KUBEBUILDER_ASSETS")
        if named is None:
            raise BinariesError(f"KUBEBUILDER_ASSETS={assets} does not have both etcd and kube-apiserver")
        return named
    return _envtest(environment) or Binaries.of(_control_plane().directory(environment), origin=str(MODULE))


def built(environment: Mapping[str, str] = os.environ) -> Binaries:
    """Our own etcd and kube-apiserver, whatever else is on this machine. Raises BinariesError."""
    directory = _control_plane().find_or_build(environment)
    found = Binaries.of(directory, origin=str(MODULE))
    if found is None:
        raise BinariesError(f"{directory} does not have both etcd and kube-apiserver; delete it to build them again")
    return found


def node_programs() -> GoPrograms:
    """Scheduler, controller manager, kubelet and kube-proxy, in the same version as our kube-apiserver; and pause."""
    return _programs("node", NODE, estimate="2 to 7 minutes on 2 cores")


def kubeadm() -> GoPrograms:
    """The program with which kind sets up a cluster, in the same version."""
    return _programs("kubeadm", {"kubeadm": "k8s.io/kubernetes/cmd/kubeadm"}, estimate="half a minute to 2 minutes")


def pull_secret_reader() -> GoPrograms:
    """A program that reads pull Secrets with the kubelet's own package, in the same version."""
    return _programs("pullsecret", {"pullsecret": "controlplane/pullsecret"}, estimate="a few seconds to a minute")


def kubectl() -> Path:
    """The kubectl of the virtual environment that runs us, pinned in hack/requirements."""
    path = Path(sysconfig.get_path("scripts")) / "kubectl"
    if not path.exists():
        raise BinariesError(f"{path} is missing; run hack/venv, and use .venv/bin/python")
    return path


def kubernetes_version() -> str:
    """The version that hack/controlplane/go.mod pins, such as v1.37.2."""
    pinned = re.search(r"^\s*k8s\.io/kubernetes (v1\.\d+\.\d+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if pinned is None:
        raise BinariesError(f"{MODULE / 'go.mod'} doesn't pin k8s.io/kubernetes")
    return pinned[1]


def _control_plane() -> GoPrograms:
    return _programs("controlplane", ETCD_AND_APISERVER, estimate="about 6 minutes on 2 cores")


def _programs(name: str, packages: Mapping[str, str], *, estimate: str) -> GoPrograms:
    return GoPrograms(
        name=f"{name}-{kubernetes_version()}", module=MODULE, packages=packages, ldflags=_ldflags(), estimate=estimate
    )


def _ldflags() -> str:
    """Without these flags the server reports v0.0.0-master, which clients that check versions refuse."""
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    package = "k8s.io/component-base/version"
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s -w", *(f"-X {package}.{name}={value}" for name, value in values.items())])


def _envtest(environment: Mapping[str, str]) -> Binaries | None:
    """The newest programs in setup-envtest's store, if they are new enough.

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
