"""What only a kubelet can show: run by hack/e2e-node, on a cluster that has both images."""
