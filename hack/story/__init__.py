"""The story that hack/demo tells: two commands fill a Secret and keep it valid, on a real Kubernetes API server."""
