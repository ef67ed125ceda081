"""Real Kubernetes on this machine: etcd and kube-apiserver without containers or root; with root, a node too.

`ControlPlane` and `NodeCluster` are the ones to import from tests; `hack/cluster` is the same for people. Linux only:
for other systems there is kind, and `--kubeconfig` of hack/test and hack/demo.
"""

from hack.gomodule import BinariesError
from hack.localcluster.binaries import Binaries, kubectl
from hack.localcluster.controlplane import ControlPlane, ControlPlaneError
from hack.localcluster.node import NodeCluster

__all__ = ["Binaries", "BinariesError", "ControlPlane", "ControlPlaneError", "NodeCluster", "kubectl"]
