"""About this machine's own node and the image that was just built: run by hack/e2e-node, as root."""
