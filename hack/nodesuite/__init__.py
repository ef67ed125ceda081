"""Runs tests/e2e/node, where Pods really pull: on a local node (hack/e2e-node), on kind, or on any cluster."""
