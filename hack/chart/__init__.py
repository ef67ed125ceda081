"""The chart's generated files, and Helm to try it with."""

from hack.chart.helm import CHART, HELM, HelmError, helm

__all__ = ["CHART", "HELM", "HelmError", "helm"]
