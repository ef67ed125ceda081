"""A real Kubernetes control plane on this machine: etcd and kube-apiserver, no containers, no root.

`ControlPlane` is the one to import from tests; `hack/cluster` is the same for people. Linux only: for other systems
there is kind, and `--kubeconfig` of hack/test and hack/demo.
"""

from hack.localcluster.binaries import Binaries, BinariesError, kubectl
from hack.localcluster.controlplane import ControlPlane, ControlPlaneError

__all__ = ["Binaries", "BinariesError", "ControlPlane", "ControlPlaneError", "kubectl"]
