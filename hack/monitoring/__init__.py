"""Prometheus, and what it is given: the rules and the dashboard in manifests/monitoring."""

from pathlib import Path

from hack.monitoring.prometheus import PROMETHEUS, PromtoolError, promtool

DIRECTORY = Path(__file__).parents[2] / "manifests" / "monitoring"
RULES = DIRECTORY / "rules.yaml"
DASHBOARD = DIRECTORY / "dashboard.json"

__all__ = ["DASHBOARD", "DIRECTORY", "PROMETHEUS", "RULES", "PromtoolError", "promtool"]
