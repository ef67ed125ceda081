"""Prometheus and promtool (https://prometheus.io), built from their pinned Go module."""

import subprocess
from pathlib import Path

from hack.gomodule import GoPrograms

PROMETHEUS = GoPrograms(
    name="prometheus",
    module=Path(__file__).parents[1] / "tools" / "prometheus",
    packages={
        "prometheus": "github.com/prometheus/prometheus/cmd/prometheus",
        "promtool": "github.com/prometheus/prometheus/cmd/promtool",
    },
    # Without the clients of 30 clouds in which it could look for targets: they would triple the build.
    tags="remove_all_sd",
    estimate="3 to 10 minutes on 2 cores",
)


class PromtoolError(Exception):
    """promtool found a fault; the message is what it said."""


def promtool(*arguments: str | Path) -> str:
    """What promtool prints. Raises PromtoolError, BinariesError."""
    command = [str(PROMETHEUS.find_or_build() / "promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PromtoolError(f"{done.stdout}{done.stderr}".strip())
    return done.stdout
