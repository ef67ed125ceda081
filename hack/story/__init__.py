"""The demo of hack/demo: two commands fill a Secret and keep it valid, on a real Kubernetes API server."""
