"""Measures the real controller on a real API server, next to what the machine itself can do in the same run."""
