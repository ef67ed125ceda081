"""Keeps Kubernetes image pull Secrets filled with short-lived registry tokens."""

__version__ = "0.2.0"
