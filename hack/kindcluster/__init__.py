"""The node suite on a cluster of kind: `hack/kind` for people."""
