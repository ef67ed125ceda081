"""The dashboard, as a table of panels; python -m hack.monitoring writes Grafana's JSON from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

UID = "pull-secret-updater"
WIDTH = 24
HEIGHTS = {"stat": 4, "timeseries": 8}
Json = dict[str, Any]
Kind = Literal["stat", "timeseries"]

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_OURS = 'cluster=~"$cluster",job=~"$job"'
_OF_PROVIDER = f'{_OURS},provider=~"$provider"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel; `queries` are PromQL by legend, and `lines` values with a line across and its colour above it."""

    title: str
    description: str
    unit: str
    queries: Mapping[str, str]
    kind: Kind = "timeseries"
    width: int = 8
    lines: Mapping[float, str] | None = None
    base: str = "green"
    """The colour below all lines."""
    most: float | None = None
    """The end of the scale, which else follows the values."""


def _ours(metric: str, **labels: str) -> str:
    return f"pull_secret_updater_{metric}{{{_OURS}{_matched(labels)}}}"


def _of_provider(metric: str, **labels: str) -> str:
    return f"pull_secret_updater_{metric}{{{_OF_PROVIDER}{_matched(labels)}}}"


def _matched(labels: Mapping[str, str]) -> str:
    return "".join(f',{name}="{value}"' for name, value in labels.items())


def _quantiles(metric: str) -> dict[str, str]:
    return {
        f"p{share * 100:.0f}": f"histogram_quantile({share}, sum by (le) (rate({_ours(metric)}[$__rate_interval])))"
        for share in (0.5, 0.99)
    }


ROWS: Mapping[str, Sequence[Panel]] = {
    "Promise": [
        Panel(
            title="Expired now",
            description="Identities of Secrets whose token has expired. Pods can't pull with them.",
            unit="short",
            queries={"expired": f"max({_ours('expired_claims')})"},
            kind="stat",
            width=4,
            lines={1: "red"},
        ),
        Panel(
            title="Expired seconds in 24 h",
            description="For how long identities had no valid token after having had one, all together.",
            unit="s",
            queries={"expired": f"sum(increase({_ours('expired_seconds_total')}[24h]))"},
            kind="stat",
            width=4,
            lines={1: "red"},
        ),
        Panel(
            title="30-day SLO",
            description="The share of all time, of all identities, for which a valid token was in place. The goal is "
            "100 %.",
            unit="percentunit",
            queries={
                "valid": f"1 - sum(increase({_ours('expired_seconds_total')}[30d]))"
                f" / clamp_min(sum(sum_over_time({_ours('managed_claims')}[30d:1m])) * 60, 1)"
            },
            kind="stat",
            width=4,
            base="red",
            lines={0.999: "orange", 0.9999: "green"},
            most=1,
        ),
        Panel(
            title="Least life left",
            description="The share of its life that is left of the token with the least of it. With a healthy issuer "
            "never under 35 %.",
            unit="percentunit",
            queries={"least": f"min({_ours('life_left_ratio_min')})"},
            kind="stat",
            width=6,
            base="red",
            lines={0.1: "orange", 0.25: "green"},
            most=1,
        ),
        Panel(
            title="Next expiry",
            description="In how long the next token runs out, unless it is replaced before.",
            unit="s",
            queries={"expires in": f"min({_ours('secret_expires_timestamp_seconds_min')}) - time()"},
            kind="stat",
            width=6,
            base="red",
            lines={0: "green"},
        ),
        Panel(
            title="Managed identities by state",
            description="Each identity of a Secret counts in one state; what is expired, contested, refused or "
            "unfilled needs a look.",
            unit="short",
            queries={"{{state}}": f"max by (state) ({_ours('claims')})"},
            width=24,
        ),
    ],
    "Refreshes": [
        Panel(
            title="Refreshes by reason",
            description="Tokens that were written into Secrets, by why they were due.",
            unit="ops",
            queries={
                "{{reason}}": "sum by (reason) "
                f"(rate({_of_provider('refreshes_total', result='written')}[$__rate_interval]))"
            },
            width=12,
        ),
        Panel(
            title="Lateness",
            description="How long after its deadline a refresh began. Seconds are nothing; minutes mean that work has "
            "piled up.",
            unit="s",
            queries={
                **_quantiles("refresh_lateness_seconds_bucket"),
                "longest that waits": f"max({_ours('oldest_overdue_seconds')})",
            },
            width=12,
        ),
        Panel(
            title="Life left over time",
            description="The least share of a token's life, and what 99 of 100 tokens had left when the next was "
            "written. The lines:"
            "35 % is the healthy floor, below 25 % and 10 % there are alerts.",
            unit="percentunit",
            queries={
                "least now": f"min({_ours('life_left_ratio_min')})",
                "99 of 100 at their refresh": "histogram_quantile(0.01, sum by (le) "
                f"(rate({_ours('replaced_life_left_ratio_bucket')}[$__rate_interval])))",
            },
            width=12,
            base="red",
            lines={0.1: "orange", 0.25: "yellow", 0.35: "green"},
            most=1,
        ),
        Panel(
            title="Due within 5, 15 and 60 min, against the limit",
            description="Refreshes that are due by then, per second until then. The line is the default of "
            "limits.mintsPerSecond, 20;"
            "Secrets that share an identity cost one mint together.",
            unit="reqps",
            queries={
                horizon: f"max({_ours('due_claims', horizon=horizon)}) / {minutes * 60}"
                for horizon, minutes in {"5m": 5, "15m": 15, "60m": 60}.items()
            },
            width=12,
            lines={20: "red"},
        ),
    ],
    "Issuers": [
        Panel(
            title="Mints by result",
            description="Requests for tokens, by what came of them.",
            unit="reqps",
            queries={"{{result}}": f"sum by (result) (rate({_of_provider('mints_total')}[$__rate_interval])) > 0"},
            width=12,
        ),
        Panel(
            title="Mint duration",
            description="How long issuers take to answer.",
            unit="s",
            queries=_quantiles("mint_duration_seconds_bucket"),
            width=12,
        ),
        Panel(
            title="Throttled",
            description="The share of requests that the issuer throttles. Above 10 % there is an alert.",
            unit="percentunit",
            queries={
                "{{provider}}": "sum by (provider) "
                f"(rate({_of_provider('mints_total', result='IssuerThrottles')}[$__rate_interval]))"
                f" / (sum by (provider) (rate({_of_provider('mints_total')}[$__rate_interval])) > 0)"
            },
            lines={0.1: "orange"},
            most=1,
        ),
        Panel(
            title="Circuit",
            description="1 while a failing issuer is only probed, so that it isn't flooded when it comes back.",
            unit="short",
            queries={"{{provider}}": f"max by (provider) ({_of_provider('circuit_open')})"},
            lines={1: "orange"},
            most=1,
        ),
        Panel(
            title="Clock skew",
            description="How far the issuer's clock is ahead of ours, by its answers. Beyond a minute there is an "
            "alert.",
            unit="s",
            queries={"{{provider}}": f"max by (provider) ({_of_provider('issuer_clock_skew_seconds')})"},
            lines={60: "orange"},
        ),
    ],
    "Controller": [
        Panel(
            title="Replicas",
            description="Those that Prometheus reaches, by version. Which of them leads will be shown here once one "
            "does.",
            unit="short",
            queries={"{{version}}": f"count by (version) ({_ours('build_info')})"},
        ),
        Panel(
            title="Watch age",
            description="For how long the API server has said nothing, longest of all watches. Above 150 s there is "
            "an alert.",
            unit="s",
            queries={"age": f"max({_ours('watch_age_seconds')})"},
            lines={150: "red"},
        ),
        Panel(
            title="Lists by reason",
            description="How often all Secrets are listed, in an hour. Each replica begins with one; after that they "
            "should be rare.",
            unit="short",
            queries={"{{reason}}": f"sum by (reason) (increase({_ours('relists_total')}[1h]))"},
        ),
        Panel(
            title="Queue depth",
            description="Identities that are due and wait for a worker.",
            unit="short",
            queries={"{{provider}}": f"max by (provider) ({_of_provider('queue_depth')})"},
        ),
        Panel(
            title="Event loop",
            description="How late the event loop is for a timer: for so long nothing else could run.",
            unit="s",
            queries=_quantiles("event_loop_hold_seconds_bucket"),
        ),
        Panel(
            title="Memory and CPU",
            description="Resident memory in MiB, and CPU in thousandths of a core, the most of all replicas.",
            unit="short",
            queries={
                "MiB": f"max(process_resident_memory_bytes{{{_OURS}}}) / 1048576",
                "thousandths of a core": f"1000 * max(rate(process_cpu_seconds_total{{{_OURS}}}[$__rate_interval]))",
            },
        ),
    ],
    "Tenancy": [
        Panel(
            title="Target namespaces by state",
            description="Namespaces that targets select, by what has come of it. Nothing without targets.",
            unit="short",
            queries={"{{target}} {{state}}": f"max by (target, state) ({_ours('target_namespaces')}) > 0"},
            width=24,
        ),
    ],
}


def dashboard() -> Json:
    """As Grafana imports it."""
    return {
        "uid": UID,
        "title": "Pull Secret updater",
        "description": "Whether image pull Secrets hold valid tokens, and what is in the way where they don't.",
        "tags": ["pull-secret-updater", "kubernetes"],
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                _variable("cluster", "Cluster", "label_values(pull_secret_updater_build_info, cluster)"),
                _variable("job", "Job", "label_values(pull_secret_updater_build_info, job)"),
                _variable("provider", "Provider", "label_values(pull_secret_updater_queue_depth, provider)"),
            ]
        },
        "panels": list(_panels()),
    }


def filled_in(expression: str) -> str:
    """As Grafana sends it, with the variables at All and a scrape every second."""
    for name in ("cluster", "job", "provider"):
        expression = expression.replace(f'"${name}"', '".*"')
    return expression.replace("$__rate_interval", "1m")


def _variable(name: str, label: str, query: str) -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",  # so that series without the label are shown too
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[Json]:
    y = number = 0
    for title, panels in ROWS.items():
        number += 1
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": place}
        x, y, height = 0, y + 1, 0
        for panel in panels:
            number += 1
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            height = HEIGHTS[panel.kind]
            yield _panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": height})
            x += panel.width
        y += height


def _panel(panel: Panel, number: int, place: Json) -> Json:
    lines = panel.lines or {}
    steps = [{"color": panel.base, "value": None}, *({"color": c, "value": at} for at, c in lines.items())]
    is_stat = panel.kind == "stat"
    custom = {"thresholdsStyle": {"mode": "line" if lines else "off"}, "fillOpacity": 10}
    scale = {} if panel.most is None else {"min": 0, "max": panel.most}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "instant": is_stat,
                "range": not is_stat,
            }
            for index, (legend, expression) in enumerate(panel.queries.items())
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                **scale,
                "thresholds": {"mode": "absolute", "steps": steps},
                "color": {"mode": "thresholds" if is_stat else "palette-classic"},
                "custom": {} if is_stat else custom,
            },
            "overrides": [],
        },
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
        if is_stat
        else {"legend": {"showLegend": True, "displayMode": "list"}, "tooltip": {"mode": "multi"}},
    }
