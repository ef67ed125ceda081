"""Real Kubernetes on this machine: etcd and kube-apiserver, without containers or root; as root, a node too.

Tests import `ControlPlane` and `NodeCluster`; people use `hack/cluster`. Linux only: on other systems, use kind, and
`--kubeconfig` of hack/test and hack/demo.
"""

from hack.gomodule import BinariesError
from hack.localcluster.binaries import Binaries, kubectl
from hack.localcluster.controlplane import ControlPlane, ControlPlaneError
from hack.localcluster.node import NodeCluster

__all__ = ["Binaries", "BinariesError", "ControlPlane", "ControlPlaneError", "NodeCluster", "kubectl"]
