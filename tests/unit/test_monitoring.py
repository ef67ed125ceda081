"""What is said of the metrics in rules, dashboard, runbooks and docs is true of a process, both ways."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controller.cli import plugin
from controller.config import Granting
from controller.core.errors import Problem
from controller.core.targetconfig import NamespaceEntry, TargetSettings
from hack.monitoring import DASHBOARD, RULES
from tests.unit.engine import Engine, identity
from tests.unit.virtual_time import Clock, VirtualTimeLoop

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"
PREFIX = "pull_secret_updater_"
ADDED = {"job", "instance", "pod", "container", "endpoint", "cluster"}
"""Labels that a scrape adds."""
REASONS = {problem.reason for problem in Problem} | {"ImagePullBackOff", "Minted"}
TEXT = (ROOT / "docs" / "monitoring.md").read_text()

Series = Mapping[str, set[tuple[tuple[str, str], ...]]]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """By its name without prefix, the labels of each series of a process with everything switched on."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        text = runner.run(scrape(tmp_path_factory.mktemp("engine")))
    found: dict[str, set[tuple[tuple[str, str], ...]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name.removeprefix(PREFIX), set()).add(tuple(sample.labels.items()))
    return found


async def scrape(directory: Path) -> str:
    target = TargetSettings(name="all", identity=identity(1), namespaces=(NamespaceEntry(names=("team-b",)),))
    engine = Engine(Clock(), directory, targets=(target,))
    everything = {"per_secret_metrics": True, "grants": Granting(check="namespace")}
    engine.config = msgspec.structs.replace(engine.config, **everything)
    engine.api.grants.add(("team-a", identity(1)))
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(5)
        return generate_latest(engine.metrics.registry).decode()


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
BOARD = json.loads(DASHBOARD.read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
EXPRESSIONS = [rule["expr"] for rule in rules()] + QUERIES


def selectors(expression: str) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    """Each metric in it, without prefix, with what its labels have to match."""
    for name, matchers in re.findall(rf"\b(?:{PREFIX}|(?=process_))(\w+)(?:{{([^}}]*)}})?", expression):
        pairs = re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers)
        yield name, {label: (how, what) for label, how, what in pairs}


def matches(how: str, what: str, value: str) -> bool:
    found = bool(re.fullmatch(what, value)) if "~" in how else what == value
    return found is not how.startswith("!")


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_names_only_series_that_a_process_has(expression: str, series: Series) -> None:
    for recorded in re.findall(rf"\w+:{PREFIX}\w+:\w+", expression):
        assert recorded in RECORDED
    named = list(selectors(re.sub(rf"\w+:{PREFIX}\w+:\w+", "", expression)))
    assert named or "up{" in expression or any(each in expression for each in RECORDED)
    for name, matchers in named:
        assert name in series, name
        ours = {label: match for label, match in matchers.items() if label not in ADDED and "$" not in match[1]}
        for label, (how, what) in ours.items():
            values = {dict(each).get(label) for each in series[name]}
            for alternative in what.split("|"):
                assert None not in values, f"{name} has no label {label}"
                assert {value for value in values if matches(how.replace("!", "=")[-2:], alternative, value or "")}, (
                    f"{name}: {label} is never {alternative}"
                )
    grouped = re.findall(r"\b(?:by|without) \(([^)]*)\)", expression)
    labels = {label for name, _ in named for each in series[name] for label, _ in each} | ADDED
    assert {label.strip() for each in grouped for label in each.split(",")} <= labels


def test_a_metric_that_no_process_has_would_be_noticed(series: Series) -> None:
    with pytest.raises(AssertionError):
        test_every_expression_names_only_series_that_a_process_has(f"{PREFIX}expired_secrets > 0", series)
    with pytest.raises(AssertionError, match="never nonsense"):
        test_every_expression_names_only_series_that_a_process_has(f'{PREFIX}claims{{state="nonsense"}}', series)
    with pytest.raises(AssertionError, match="no label kind"):
        test_every_expression_names_only_series_that_a_process_has(f'{PREFIX}claims{{kind="due"}}', series)


def documented() -> dict[str, tuple[set[str], str]]:
    """The table of metrics: by name, its labels and where it is used."""
    rows = re.findall(r"^\| `(\w+)(?:\{([\w,]+)\})?` \| .* \| ([^|]*) \|$", TEXT, re.MULTILINE)
    return {name: (set(filter(None, labels.split(","))), used) for name, labels, used in rows}


def test_every_metric_that_a_process_has_is_in_the_docs_with_its_labels_and_no_other(series: Series) -> None:
    families: dict[str, set[str]] = {}
    for name, found in series.items():
        if not name.startswith("process_"):
            family = re.sub("_(bucket|sum|count)$", "", name)
            families.setdefault(family, set()).update(label for each in found for label, _ in each if label != "le")
    assert {name: labels for name, (labels, _) in documented().items()} == families


def test_the_docs_say_where_each_metric_is_used_or_why_it_is_not() -> None:
    def used(texts: list[str]) -> set[str]:
        return {re.sub("_(bucket|sum|count)$", "", name) for text in texts for name, _ in selectors(text)}

    in_alerts: dict[str, set[str]] = {}
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    for alert, rule in ALERTS.items():
        expression = rule["expr"] + "".join(expr for name, expr in recorded.items() if name in rule["expr"])
        for metric in used([re.sub(rf"\w+:{PREFIX}\w+:\w+", "", expression)]):
            in_alerts.setdefault(metric, set()).add(alert)
    on_board = used(QUERIES)
    for name, (_, where) in documented().items():
        alerts = set(re.findall(r"\bPullSecret\w+", where))
        assert (alerts, "dashboard" in where) == (in_alerts.get(name, set()), name in on_board), name
        assert alerts or "dashboard" in where or where.startswith("neither"), name


def test_the_docs_list_each_alert_as_it_is() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\(runbooks/(\w+)\.md\) \| .* \| (.*) \| (\w+) \|$", TEXT, re.MULTILINE)
    told = {name: ("0" if after == "at once" else after.replace(" min", "m"), how) for name, _, after, how in rows}
    assert told == {name: (rule.get("for", "0"), rule["labels"]["severity"]) for name, rule in ALERTS.items()}
    assert all(name == page for name, page, _, _ in rows)


# Runbooks.


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert {file.stem for file in RUNBOOKS.iterdir()} == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_a_runbook_is_short_and_begins_its_diagnosis_with_a_command_of_ours(alert: str) -> None:
    text = (RUNBOOKS / f"{alert}.md").read_text()
    assert len(text.splitlines()) <= 60
    assert text.startswith(f"# {alert}\n")
    assert re.findall("^## (.*)$", text, re.MULTILINE) == ["Meaning", "Impact", "Diagnosis", "Mitigation"]
    first = text.partition("## Diagnosis\n\n")[2].partition("\n")[0].strip()
    assert re.match(r"kubectl pull-secrets (status|doctor|explain|targets)\b", first)
    for page in re.findall(r"\]\(([^)]*)\)", text):
        assert (RUNBOOKS / page).exists()
    for reason in re.findall(r"`([A-Z]\w+)`", text):
        assert reason in REASONS, reason


# Dashboard.


def test_the_page_for_the_night_goes_from_each_alert_to_the_command_that_its_runbook_begins_with() -> None:
    page = (ROOT / "docs" / "on-call.md").read_text()
    rows = dict(re.findall(r"^\| \[\w+\]\(runbooks/(\w+)\.md\) \| (.*?) \|", page, re.MULTILINE))
    begin = {
        alert: re.search(r"^    kubectl pull-secrets ([^\n]*)", (RUNBOOKS / f"{alert}.md").read_text(), re.MULTILINE)
        for alert in ALERTS
    }
    first = {alert: row.split("`")[1] for alert, row in rows.items()}
    assert first == {alert: found[1] for alert, found in begin.items() if found}


@pytest.mark.parametrize(
    "page", [*sorted(RUNBOOKS.glob("*.md")), ROOT / "docs" / "on-call.md"], ids=lambda page: page.stem
)
def test_every_command_of_ours_on_the_pages_is_one(page: Path) -> None:
    """Each is parsed by the command itself, with a name in place of the words in capitals."""
    commands = re.findall(r"(?:kubectl pull-secrets|-- pull-secret-updater) ([^`\n#]+)", page.read_text())
    assert commands
    for command in commands:
        name, *arguments = shlex.split(command)
        plugin.commands[name].make_context(name, arguments)


def test_the_dashboard_has_its_panels_in_five_rows_that_do_not_overlap() -> None:
    assert [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"] == [
        *("Promise", "Refreshes", "Issuers", "Controller", "Tenancy")
    ]
    assert len(PANELS) == 22
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_the_dashboard_can_be_imported_anywhere() -> None:
    assert (BOARD["uid"], BOARD["editable"]) == ("pull-secret-updater", False)
    assert [each["name"] for each in BOARD["templating"]["list"]] == ["datasource", "cluster", "job", "provider"]
    sources = re.findall(r'"uid": "([^"]*)"', DASHBOARD.read_text())
    assert set(sources) == {"pull-secret-updater", "${datasource}"}


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_each_panel_says_what_it_shows_in_which_unit_and_follows_the_variables(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert len(panel["description"]) > 30
    assert panel["fieldConfig"]["defaults"]["unit"] in ("short", "s", "percentunit", "ops", "reqps")
    for target in panel["targets"]:
        expression = target["expr"]
        assert target["legendFormat"]
        assert set(re.findall(r"\[([^\]]*)\]", expression)) <= {"$__rate_interval", "1h", "24h", "30d", "30d:1m"}
        if re.search(r"\brate\(", expression):
            assert "$__rate_interval" in expression
        for _, matchers in selectors(expression):
            assert {"cluster", "job"} <= matchers.keys()


def test_the_thresholds_of_the_dashboard_are_those_of_the_alerts() -> None:
    def lines(title: str) -> set[float]:
        (panel,) = [panel for panel in PANELS if panel["title"] == title]
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        return {step["value"] for step in steps if step["value"] is not None}

    def limit(alert: str) -> float:
        return float(ALERTS[alert]["expr"].split()[-1])

    assert lines("Life left over time") == {limit("PullSecretLifeCritical"), limit("PullSecretLifeLow"), 0.35}
    assert lines("Throttled") == {limit("PullSecretMintThrottled")}
    assert lines("Watch age") == {limit("PullSecretUpdaterWatchStale")}
    assert lines("Clock skew") == {limit("PullSecretUpdaterClockSkew")}
