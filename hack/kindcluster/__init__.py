"""The node suite on a kind cluster: `hack/kind` for people."""
