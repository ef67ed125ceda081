"""Runs tests/e2e/node, in which Pods really pull: on a node of our own (hack/e2e-node), on kind, on any cluster."""
