"""Prometheus, and what it is given: the rules and the dashboard in manifests/monitoring."""
