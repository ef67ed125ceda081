"""Figures of the real controller on a real API server, each beside what the machine itself can do in the same run."""
