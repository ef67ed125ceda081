"""Writes the files in manifests/monitoring that follow from others: python -m hack.monitoring."""

import json
import textwrap

from hack.monitoring import DASHBOARD, DIRECTORY, RULES
from hack.monitoring.dashboard import dashboard

_PROMETHEUS_RULE = """\
# Written by python -m hack.monitoring from rules.yaml, for the Prometheus operator. A Prometheus that selects its rules
# by a label needs that label here.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: pull-secret-updater
  namespace: pull-secret-updater
spec:
"""


def files() -> dict[str, str]:
    """What they should contain, by their names."""
    return {
        "prometheusrule.yaml": _PROMETHEUS_RULE + textwrap.indent(RULES.read_text(), "  "),
        DASHBOARD.name: json.dumps(dashboard(), indent=1) + "\n",
    }


if __name__ == "__main__":
    for name, text in files().items():
        (DIRECTORY / name).write_text(text)
