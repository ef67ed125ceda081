"""The alerts, by promtool: each fires when it should, not a step earlier, and resolves; and not one fires beside it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.core.errors import Pace, Problem
from hack.localcluster import kubectl
from hack.monitoring import DASHBOARD, DIRECTORY, RULES, PromtoolError, promtool
from hack.monitoring.__main__ import files
from tests.e2e.support.rules import CASES, PASSING, STEP_SECONDS, run

Rule = dict[str, Any]
ALERTS: dict[str, Rule] = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


def test_promtool_finds_no_fault_in_the_rules() -> None:
    assert "18 rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


@pytest.mark.parametrize("sentence", CASES)
def test_exactly_the_alerts_fire_that_should(sentence: str, tmp_path: Path) -> None:
    run([CASES[sentence]], directory=tmp_path)


@pytest.mark.parametrize("alert", ALERTS)
def test_of_each_alert_it_is_shown_that_it_fires_not_a_step_earlier_and_that_it_resolves(alert: str) -> None:
    shown = set()
    for case in CASES.values():
        times = sorted(at for at in case.fires if alert in case.fires[at])
        if times and times[0] - STEP_SECONDS in case.fires:
            shown.add("fires, and not a step earlier")
        if times and any(at > times[0] and alert not in case.fires[at] for at in case.fires):
            shown.add("resolves")
    assert shown == {"fires, and not a step earlier", "resolves"}


MUTANTS = [
    ("_expired_claims) > 0\n    for: 1m", "_expired_claims) > 0\n    for: 1h", "an outage, with tokens of 12 h"),
    ("ratio_min) < 0.25", "ratio_min) <= 0.25", "an outage, with tokens of 15 min"),
    ("ratio_min) < 0.10", "ratio_min) < 0.15", "an outage, with tokens of 1 h"),
    (
        "min without (instance, pod, container, endpoint) (pull_secret_updater_life_left_ratio_min) < 0.25",
        "pull_secret_updater_life_left_ratio_min < 0.25",
        "two replicas, both of which see it, count once",
    ),
    (
        "min without (instance, pod, container, endpoint) (pull_secret_updater_policy_installed)",
        "min (pull_secret_updater_policy_installed)",
        "two policies that are missing are two alerts, however many replicas look",
    ),
    ("_contested_claims) > 0", "_contested_claims) >= 0", "PullSecretContested: .* stays at 0"),
    ("} == 1)\n", "})\n", "a controller that can't be scraped for 20 min"),
    ("for: 10m\n    labels: {severity: critical}", "for: 5m\n    labels: {severity: critical}", "a rollout of 9 min"),
    ("min_over_time(pull_secret_updater_watch_age_seconds[2m])", "pull_secret_updater_watch_age_seconds", "silent"),
    ("(abs(pull_secret_updater_issuer_clock_skew_seconds))", "(pull_secret_updater_issuer_clock_skew_seconds)", "-61"),
    ("mints_failing:ratio_rate15m > 0.5", "mints_failing:ratio_rate15m >= 0.5", "fails half of all requests"),
    ('!~"Minted|IssuerThrottles"', '!="Minted"', "throttles everything, which is no failure"),
    ("|held", "", 'state="held".* is 1.0 for longer'),
    ("|Fight", "", "Fight for an hour, which passes"),
]


@pytest.mark.parametrize(("is_now", "would_be", "case"), MUTANTS, ids=[case for _, _, case in MUTANTS])
def test_a_rule_that_is_a_little_wrong_is_caught(is_now: str, would_be: str, case: str, tmp_path: Path) -> None:
    rules = RULES.read_text()
    assert rules.count(is_now) == 1
    catching = next(each for sentence, each in CASES.items() if re.search(case, sentence))
    run([catching], directory=tmp_path)
    with pytest.raises(PromtoolError, match="FAILED"):
        run([catching], directory=tmp_path, rules=rules.replace(is_now, would_be))


def test_what_passes_by_itself_is_not_for_a_person_to_mend() -> None:
    """But a missing ServiceAccount is, and an issuer's trust in another cluster, however soon we look again."""
    passing = {problem for problem in Problem if problem.pace is Pace.FAST}
    passing -= {Problem.SERVICE_ACCOUNT_MISSING, Problem.CLUSTER_ISSUER_UNREACHABLE}
    assert {*passing, Problem.FIGHT} == PASSING


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_it_means_how_much_it_is_and_where_to_go_on(alert: str) -> None:
    rule = ALERTS[alert]
    texts = rule["annotations"]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert 15 <= len(texts["summary"]) <= 80
    assert "{{" not in texts["summary"], "one line for all alerts that are grouped"
    if alert != "PullSecretUpdaterAbsent":  # whose value says nothing
        assert "{{ $value | humanize" in texts["description"]
    assert texts["runbook_url"].rpartition("/")[2] == f"{alert}.md"
    assert texts["dashboard_url"].endswith("/d/pull-secret-updater")


@pytest.mark.parametrize("name", files())
def test_what_follows_from_the_rules_is_written_anew_when_they_change(name: str) -> None:
    assert (DIRECTORY / name).read_text() == files()[name], "python -m hack.monitoring writes it anew"


def test_the_component_adds_the_rules_and_a_monitor_in_the_namespace_of_the_controller(tmp_path: Path) -> None:
    shutil.copytree(DIRECTORY.parent, tmp_path / "manifests", symlinks=True)
    namespace = tmp_path / "manifests" / "namespace.yaml"
    namespace.write_text(namespace.read_text().replace("name: pull-secret-updater", "name: elsewhere"))
    (tmp_path / "overlay").mkdir()
    overlay = {"resources": ["../manifests"], "components": ["../manifests/monitoring"]}
    (tmp_path / "overlay" / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    built = subprocess.run([kubectl(), "kustomize", tmp_path / "overlay"], capture_output=True, text=True, check=True)
    objects = {each["kind"]: each for each in yaml.safe_load_all(built.stdout)}
    assert objects["PrometheusRule"]["spec"] == yaml.safe_load(RULES.read_text())
    monitor, service = objects["ServiceMonitor"], objects["Service"]
    assert {each["metadata"]["namespace"] for each in (monitor, service, objects["PrometheusRule"])} == {"elsewhere"}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    job = service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    assert f'absent(up{{job="{job}"}} == 1)' in ALERTS["PullSecretUpdaterAbsent"]["expr"]


def test_a_pod_monitor_in_place_of_the_service_monitor_gives_the_same_job() -> None:
    monitor = yaml.safe_load((DIRECTORY / "podmonitor.yaml").read_text())
    objects = yaml.safe_load_all((DIRECTORY.parent / "deployment.yaml").read_text())
    (template,) = [each["spec"]["template"] for each in objects if each["kind"] == "Deployment"]
    assert monitor["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": "pull-secret-updater"}
    assert template["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "pull-secret-updater"
    ports = [port["name"] for container in template["spec"]["containers"] for port in container["ports"]]
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in ports


def test_promtool_parses_every_query_of_the_dashboard(tmp_path: Path) -> None:
    board = json.loads(DASHBOARD.read_text())
    targets = [target for panel in board["panels"] for target in panel.get("targets", ())]
    queries = [target["expr"].replace("$__rate_interval", "2m") for target in targets]
    assert len(queries) >= 22
    rules = [{"record": f"query{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", file)
    file.write_text(file.read_text().replace(")", "", 1))
    with pytest.raises(PromtoolError):
        promtool("check", "rules", file)
