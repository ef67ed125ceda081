"""The dashboard as a picture: each panel, drawn from Prometheus' own answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from hack.monitoring.dashboard import ROWS, Panel, filled_in
from testing.prometheus import Prometheus

STEP_SECONDS = 2.0
COLUMNS = 4
COLOURS = {"red": "#c4162a", "orange": "#ff9830", "yellow": "#e0b400", "green": "#37872d"}

Line = tuple[str, Sequence[tuple[float, float]]]


def draw(file: Path, *, prometheus: Prometheus, began: float, ended: float) -> None:
    """Draw every panel from `began` to `ended`, in seconds since the epoch."""
    panels = [panel for row in ROWS.values() for panel in row]
    rows = math.ceil(len(panels) / COLUMNS)
    with mpl.rc_context({"font.size": 8, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(5 * COLUMNS, 2.9 * rows), layout="constrained")
        for index, panel in enumerate(panels):
            axes = figure.add_subplot(rows, COLUMNS, index + 1)
            axes.set_title(panel.title, fontsize=10, fontweight="bold")
            lines = [
                line
                for legend, expression in panel.queries.items()
                for line in _lines(prometheus, legend, filled_in(expression), began=began, ended=ended)
            ]
            _draw_panel(axes, panel, lines, seconds=ended - began)
        figure.savefig(file, dpi=70)


def shown(value: float, unit: str) -> str:
    """A value with its unit, as short as can be."""
    match unit:
        case "percentunit":
            return f"{value * 100:.4g} %"
        case "s":
            return f"{value * 1000:.3g} ms" if 0 < abs(value) < 1 else f"{value:.4g} s"
        case "ops" | "reqps":
            return f"{value:.3g}/s"
        case _:
            return f"{value:.4g}"


def _lines(prometheus: Prometheus, legend: str, expression: str, *, began: float, ended: float) -> list[Line]:
    found = prometheus.query_range(expression, begin=began, end=ended, step=STEP_SECONDS)
    lines = [(_named(legend, labels), _with_gaps(points, began)) for labels, points in found]
    return [(name, points) for name, points in lines if not all(math.isnan(value) for _, value in points)]


def _with_gaps(points: Sequence[tuple[float, float]], began: float) -> list[tuple[float, float]]:
    """By seconds since the begin, with no number where Prometheus has none, so that no line is drawn across."""
    drawn: list[tuple[float, float]] = []
    for at, value in points:
        if drawn and at - began - drawn[-1][0] > 1.5 * STEP_SECONDS:
            drawn.append((drawn[-1][0] + STEP_SECONDS, math.nan))
        drawn.append((at - began, value))
    return drawn


def _named(legend: str, labels: Mapping[str, str]) -> str:
    for label, value in labels.items():
        legend = legend.replace(f"{{{{{label}}}}}", value)
    return legend


def _draw_panel(axes: Axes, panel: Panel, lines: Sequence[Line], *, seconds: float) -> None:
    if not lines:
        axes.text(0.5, 0.5, "nothing to show here", transform=axes.transAxes, ha="center", va="center", color="grey")
        axes.set_axis_off()
        return
    for legend, points in lines:
        axes.plot([at / 60 for at, _ in points], [value for _, value in points], label=legend, linewidth=1.2)
    _, top = axes.get_ylim()
    for at, colour in (panel.lines or {}).items():
        if panel.kind == "timeseries" and at <= max(top, panel.most or 0):
            axes.axhline(at, color=COLOURS[colour], linestyle="--", linewidth=0.8)
    if panel.most is not None:
        axes.set_ylim(0, panel.most * 1.05)
    axes.set_xlim(0, seconds / 60)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g} min"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, panel.unit)))
    if panel.kind == "stat":
        last = shown(lines[0][1][-1][1], panel.unit)
        axes.text(0.5, 0.5, last, transform=axes.transAxes, ha="center", va="center", fontsize=22, alpha=0.8)
    else:
        axes.legend(fontsize=7, loc="upper left", ncols=2, framealpha=0.6)
