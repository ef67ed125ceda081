"""The Helm chart: it is manifests/ under other names, with the rights that its configuration needs and no other."""

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import __version__
from controller.config import load
from hack.chart import CHART, HELM, HelmError, helm, readme, schema
from hack.chart.helm import KUBE_VERSION
from hack.localcluster import kubectl
from hack.monitoring import DASHBOARD, RULES, promtool
from testing.behaviour import Behaviour
from testing.controller import ControllerProcess
from testing.exchange import Issuer
from tests.e2e.support import installed
from tests.e2e.support.charts import EXAMPLES, Object, example, merged, of_kind, offer, render, start
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.commandline import command
from tests.e2e.support.tenant import Tenant, eventually, token

NAMESPACE = "pull-secret-updater"
IDENTITY = "720909c9f5279097d847ad02a2f24ba8f59de36a/a033a6fabe0bfa0d"


# --- what a user writes ---


def test_there_are_25_examples() -> None:
    assert len(EXAMPLES) == 25


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_passes_lint_is_a_valid_configuration_and_renders_to_the_same_bytes_twice(
    name: str, tmp_path: Path
) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, "-f", EXAMPLES[name], "--kube-version", KUBE_VERSION)
    once, again = (
        helm("template", "psu", CHART, "-n", NAMESPACE, "-f", EXAMPLES[name], "--kube-version", KUBE_VERSION)
        for _ in range(2)
    )
    assert once == again
    for config in of_kind(list(filter(None, yaml.safe_load_all(once))), "ConfigMap"):
        if "config.yaml" in config["data"]:
            (tmp_path / "config.yaml").write_text(config["data"]["config.yaml"])
            load(tmp_path / "config.yaml")


@pytest.mark.parametrize("name", EXAMPLES)
def test_helm_4_lints_each_example_too_and_renders_the_same_objects(name: str, tmp_path: Path) -> None:
    values = ("-f", EXAMPLES[name], "--kube-version", KUBE_VERSION)
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, *values, major=4)
    text = helm("template", "psu", CHART, "-n", NAMESPACE, *values, major=4)
    assert [each for each in yaml.safe_load_all(text) if each] == render(EXAMPLES[name], tmp_path=tmp_path)


def test_the_schema_is_the_one_that_the_controllers_types_give() -> None:
    assert json.loads(schema.FILE.read_text()) == schema.schema(), "python -m hack.chart.schema writes it anew"


def test_the_table_of_values_is_the_one_that_values_yaml_gives() -> None:
    assert readme.FILE.read_text() == readme.readme(), "python -m hack.chart.readme writes it anew"
    assert {leaf.path for leaf in readme.leaves()} >= LEAVES.keys() - {"nodeSelector.kubernetes.io/os"}


def test_a_package_is_small_and_holds_no_example(tmp_path: Path) -> None:
    helm("package", CHART, "-d", tmp_path)
    (package,) = tmp_path.iterdir()
    assert package.stat().st_size < 60 * 1024
    names = subprocess.run(["tar", "tzf", package], capture_output=True, text=True, check=True).stdout
    assert "pull-secret-updater/policies/own-writes.yaml" in names
    assert "pull-secret-updater/monitoring/rules.yaml" in names
    assert "prometheusrule.yaml" not in names
    assert "/ci/" not in names


def test_chart_image_and_controller_have_one_version_and_artifact_hub_is_told_the_same(tmp_path: Path) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    (base,) = yaml.safe_load((installed.MANIFESTS / "kustomization.yaml").read_text())["images"]
    assert base["newTag"] == __version__
    told = {key.removeprefix("artifacthub.io/"): yaml.safe_load(text) for key, text in chart["annotations"].items()}
    (deployment,) = of_kind(render(example("chainguard"), tmp_path=tmp_path), "Deployment")
    used = [each["image"] for each in deployment["spec"]["template"]["spec"]["containers"]]
    assert [image["image"] for image in told["images"]] == used == [f"{base['newName']}:{__version__}"]
    assert told["license"] in (installed.ROOT / "setup.cfg").read_text()
    assert {each["kind"] for each in told["changes"]} <= {
        *("added", "changed", "deprecated", "removed", "fixed", "security")
    }
    assert all(each["description"] for each in told["changes"])
    assert all(each["url"].startswith("https://") and each["name"] for each in told["links"])


LEAVES = {leaf.path: leaf.default for leaf in readme.leaves()}
"""All values by their path, as the chart's README lists them."""

SENTINELS: Object = {
    "config": {"providers": {"x": {"type": "quay", "registries": ["quay.io"]}}},
    "replicas": 0,
    "image.tag": "9.9.9",
    "image.digest": f"sha256:{'ab' * 32}",
    "image.pullPolicy": "Never",
    "podDisruptionBudget.maxUnavailable": 2,
    "credentials": [{"provider": "chainguard", "existingSecret": "keys", "keys": {"a": "caFile"}}],
    "policies.audiences": ["sentinel"],
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sentinel"}}],
    "extraArgs": ["--sentinel"],
    "caBundle.key": "sentinel.crt",
    "resources": {"requests": {"cpu": "77m"}},
    "nodeSelector.kubernetes.io/os": "sentinel",
    "rbac.aggregateUse": "admin",
    "metrics.crdCheck": "skip",
    "iAccept": "unguarded",
    "metrics.rules.overrides": {"PullSecretRefused": {"for": "2h"}},
}
AROUND: Object = {
    "policies.audiences": {"config": {"serviceAccounts": {"enabled": True}}},
    "networkPolicy.ingress.from": {"networkPolicy": {"ingress": {"enabled": True}}},
    "networkPolicy.egress.extra": {"networkPolicy": {"egress": {"enabled": True}}},
    "caBundle.key": {"caBundle": {"configMap": "corp"}},
    "rbac.create": {},
    "metrics.crdCheck": {"metrics": {"serviceMonitor": {"enabled": True}}},
    **{
        f"metrics.{kind}.{key}": {"metrics": {kind: {"enabled": True}}}
        for kind in ("serviceMonitor", "podMonitor", "rules", "dashboard")
        for key in ("labels", "annotations", "namespace")
        if (kind, key) != ("dashboard", "labels")
    },
    **{
        f"metrics.rules.{key}": {"metrics": {"rules": {"enabled": True}}}
        for key in ("overrides", "runbookBaseUrl", "dashboardUrl", "job", "extra")
    },
    **{
        f"metrics.dashboard.{key}": {"metrics": {"dashboard": {"enabled": True}}}
        for key in ("label", "labelValue", "folder")
    },
    "iAccept": {"config": {"scope": "cluster"}, "policies": {"enabled": False}},
}
"""What has to be set too, for a value to mean something."""


def at(path: str, value: Any) -> Object:
    """Values with one set; of the keys only the last may have a dot."""
    keys = path.split(".", path.count(".")) if "kubernetes.io" not in path else ["nodeSelector", "kubernetes.io/os"]
    for key in reversed(keys):
        value = {key: value}
    found: Object = value
    return found


def sentinel(path: str) -> Any:
    """Another value of the same type."""
    if path in SENTINELS:
        return SENTINELS[path]
    match LEAVES[path]:
        case bool(value):
            return not value
        case int(value):
            return value + 1
        case str():
            return "sentinel"
        case list():
            return [{"sentinel": "yes"}]
        case _:
            return {"sentinel": "yes"}


def test_the_chart_has_at_most_75_values() -> None:
    assert len(LEAVES) <= 75


@pytest.mark.parametrize("path", [path for path in LEAVES if path != "global"])
def test_every_value_does_something(path: str, tmp_path: Path) -> None:
    around = merged(example("chainguard"), AROUND.get(path, {}))
    if path == "iAccept":
        with pytest.raises(HelmError, match="iAccept=unguarded"):
            render(around, tmp_path=tmp_path)
        assert render(merged(around, at(path, "unguarded")), tmp_path=tmp_path)
        return
    before = render(around, tmp_path=tmp_path)
    assert render(merged(around, at(path, sentinel(path))), tmp_path=tmp_path) != before


def test_every_value_that_a_template_reads_is_in_values_yaml() -> None:
    texts = "".join(file.read_text() for file in (CHART / "templates").iterdir())
    read = {match.split(".")[0] for match in re.findall(r"\.Values\.([A-Za-z.]+)", texts)}
    values = {path.partition(".")[0] for path in LEAVES}
    assert read <= values
    assert values - read - {"global"} == {
        *("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "dnsConfig", "hostAliases")
    }, "read by their names in a loop"


def wrong(value: Any) -> list[Any]:
    """Values of other types."""
    others = ["text", 7, True, ["x", 1], {"unknown": {"x": [1]}}]
    return [each for each in others if type(each) is not type(value)]


OPEN = ("config", "global", "resources")
"""What has tests of its own, or is Kubernetes' business."""

WRONG = [(path, other) for path, value in LEAVES.items() if path.split(".")[0] not in OPEN for other in wrong(value)]


@pytest.mark.parametrize("most", [0, "0%"])
def test_a_budget_that_would_block_every_drain_is_refused(most: int | str, tmp_path: Path) -> None:
    with pytest.raises(HelmError, match="podDisruptionBudget/maxUnavailable"):
        render(merged(example("chainguard"), at("podDisruptionBudget.maxUnavailable", most)), tmp_path=tmp_path)


def test_there_may_be_no_budget(tmp_path: Path) -> None:
    rendered = render(merged(example("chainguard"), at("podDisruptionBudget.maxUnavailable", None)), tmp_path=tmp_path)
    assert of_kind(rendered, "PodDisruptionBudget") == []


def test_values_of_a_wrong_type_are_refused_with_their_path(tmp_path: Path) -> None:
    """All in one call: each wrong value has its own line."""
    assert len(WRONG) >= 100
    for number in range(4):
        values = example("chainguard")
        tried = []
        for path in dict.fromkeys(path for path, _ in WRONG):
            if len(others := [other for each, other in WRONG if each == path]) > number:
                values = merged(values, at(path, others[number]))
                tried.append(path)
        with pytest.raises(HelmError) as caught:
            render(values, tmp_path=tmp_path)
        told = str(caught.value)
        places = {match.replace("~1", "/").replace("/", ".") for match in re.findall(r"at '/([^']*)'", told)}
        assert [path for path in tried if not any(place.startswith(path.replace("/", ".")) for place in places)] == []


@pytest.mark.parametrize(
    "path", ["namespaceOverride", "fullnameOverride", "nameOverride", "serviceAccount.name", "caBundle.configMap"]
)
def test_a_name_that_would_become_more_than_a_name_is_refused(path: str, tmp_path: Path) -> None:
    for value in ("a, namespace: kube-system", "a\nb: c", "x' || true || '", "Upper", "-a"):
        with pytest.raises(HelmError, match=path.replace(".", "/")):
            render(merged(example("chainguard"), at(path, value)), tmp_path=tmp_path)


def test_labels_for_all_dont_hide_the_service_from_its_monitor(tmp_path: Path) -> None:
    values = {"commonLabels": {"app.kubernetes.io/name": "mine", "team": "a"}, "metrics": MONITORS}
    objects = render(merged(example("chainguard"), values), tmp_path=tmp_path)
    (monitor,) = of_kind(objects, "ServiceMonitor")
    (service,) = of_kind(objects, "Service")
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    assert selected <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"]["team"] == "a"


def test_nothing_takes_the_pod_of_helm_test_for_the_controller_but_the_network_policy(tmp_path: Path) -> None:
    values = {"test": {"enabled": True}, "networkPolicy": {"egress": {"enabled": True}}, "metrics": MONITORS}
    objects = render(merged(example("chainguard"), values), tmp_path=tmp_path)
    (pod,) = of_kind(objects, "Pod")
    labels = pod["metadata"]["labels"]
    selectors = [each["spec"]["selector"] for each in objects if "selector" in each.get("spec", {})]
    assert len(selectors) == 5
    for selector in selectors:
        assert not selector.get("matchLabels", selector).items() <= labels.items()
    (policy,) = of_kind(objects, "NetworkPolicy")
    (name,) = policy["spec"]["podSelector"]["matchExpressions"]
    (deployment,) = of_kind(objects, "Deployment")
    for each in (labels, deployment["spec"]["template"]["metadata"]["labels"]):
        assert each[name["key"]] in name["values"]
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= each.items()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"secretNams": ["a"]}, "additional properties 'secretNams' not allowed"),
        ({"refresh": {"maxLifetime": 12}}, "/config/refresh/maxLifetime"),
        ({"providers": {"x": {"type": "ecr", "tokenFile": "/t", "lifetme": 1}}}, "'lifetme' not allowed"),
        ({"providers": {"x": {"type": "nothing"}}}, "/config/providers/x/type"),
        ({"targets": [{"name": "a"}]}, "missing propert"),
        ({"grants": {"check": "never"}}, "/config/grants/check"),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_is_installed(
    config: Object, told: str, tmp_path: Path
) -> None:
    with pytest.raises(HelmError, match=told):
        render(merged(example("chainguard"), {"config": config}), tmp_path=tmp_path)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"config": {"providers": {}}}, "config.providers is empty.*configure a provider"),
        (
            {"credentials": [{"provider": "other", "existingSecret": "x", "keys": {"a": "b"}}]},
            "there is no provider other.*chainguard.*correct the name",
        ),
        ({"image": {"tag": "latest"}}, "image.tag is latest.*set a version"),
        ({"replicas": 2}, "replicas is 2, and none of them leads.*set replicas=1"),
        ({"config": {"scope": "cluster"}, "policies": {"enabled": False}}, "lets anyone.*policies.enabled=true"),
        ({"config": {"scope": "namespaces"}}, "config.namespaces is empty: name at least one"),
        (
            {"metrics": {"rules": {"overrides": {"PullSecretRefuse": {"for": "2h"}}}}},
            "there is no alert PullSecretRefuse: use a name of docs/monitoring.md",
        ),
        ({"fullnameOverride": "x" * 40, "config": {"serviceAccounts": {"enabled": True}}}, "set fullnameOverride"),
    ],
)
def test_what_cant_work_is_refused_with_the_cure(values: Object, told: str, tmp_path: Path) -> None:
    base = {} if "providers" in values.get("config", {}) else example("chainguard")
    with pytest.raises(HelmError, match=told):
        render(merged(base, values), tmp_path=tmp_path, namespace="n" * 30)


OPERATORS = {"ServiceMonitor": "serviceMonitor", "PodMonitor": "podMonitor", "PrometheusRule": "rules"}
"""The kinds of the Prometheus operator, and what switches each on."""
MONITORS = {key: {"enabled": True} for key in OPERATORS.values()}
CRDS = {kind: f"monitoring.coreos.com/v1/{kind}" for kind in OPERATORS}


@pytest.mark.parametrize(("check", "known"), [("none", ()), ("skip", ()), ("skip", ("ServiceMonitor",))])
def test_what_has_no_crd_is_rendered_or_left_out_as_one_says(
    check: str, known: tuple[str, ...], tmp_path: Path
) -> None:
    values = merged(example("chainguard"), {"metrics": {**MONITORS, "crdCheck": check}})
    rendered = render(values, tmp_path=tmp_path, crds=[CRDS[kind] for kind in known])
    assert {each["kind"] for each in rendered} & {*CRDS} == {*(CRDS if check == "none" else known)}


def test_or_nothing_is_installed_and_helm_says_what_is_missing(tmp_path: Path) -> None:
    values = merged(example("chainguard"), {"metrics": {**MONITORS, "crdCheck": "fail"}})
    told = r"the cluster has no PodMonitor and no PrometheusRule: install the CRDs .*metrics\.crdCheck=skip"
    with pytest.raises(HelmError, match=told):
        render(values, tmp_path=tmp_path, crds=[CRDS["ServiceMonitor"]])
    assert render(values, tmp_path=tmp_path, crds=[*CRDS.values()])


def test_the_notes_say_what_was_left_out(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(merged(example("chainguard"), {"metrics": {**MONITORS, "crdCheck": "skip"}})))
    cluster.kubectl("create", "namespace", NAMESPACE, check=False)
    on_it = ("--kubeconfig", cluster.kubeconfig, "--dry-run=server")
    shown = helm("install", "psu", CHART, "-n", NAMESPACE, "-f", file, *on_it)
    assert "since the cluster has no such kind: PodMonitor, PrometheusRule, ServiceMonitor." in shown


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_notes_are_short_and_say_what_can_be_read(cluster: Cluster, name: str) -> None:
    on_it = ("--kubeconfig", cluster.kubeconfig, "--disable-openapi-validation")
    shown = helm("install", "psu", CHART, "--dry-run=client", "-n", NAMESPACE, "-f", EXAMPLES[name], *on_it)
    notes = shown.partition("NOTES:")[2].strip()
    assert len(notes.splitlines()) <= 25
    if name == "off":
        assert notes == ""
        return
    asked = example(name)["config"].get("secretNames", ["pull-secret"])[0]
    assert f"create secret generic {asked} " in notes
    assert f"annotate secret {asked} " in notes
    assert "kubectl pull-secrets doctor --install-namespace " in notes
    assert f"docs/ at v{__version__}" in notes
    if name == "chainguard":
        assert "Secrets called pull-secret in all namespaces, and can read no other Secret" in notes
    if name == "cluster":
        assert "can read every Secret of the cluster" in notes
    if name == "unguarded":
        assert "WARNING: the admission policies are off" in notes


# --- monitoring ---


def groups(objects: list[Object]) -> list[Object]:
    """Of the only PrometheusRule."""
    (rule,) = of_kind(objects, "PrometheusRule")
    found: list[Object] = rule["spec"]["groups"]
    return found


def alerts(objects: list[Object]) -> dict[str, Object]:
    return {rule["alert"]: rule for group in groups(objects) for rule in group["rules"] if "alert" in rule}


def with_metrics(**metrics: Object) -> Object:
    return merged(example("chainguard"), {"metrics": metrics})


def test_the_rules_are_those_of_manifests_without_links_to_nowhere(tmp_path: Path) -> None:
    plain = yaml.safe_load(RULES.read_text())["groups"]
    for rule in plain[0]["rules"]:
        for link in ("runbook_url", "dashboard_url"):
            rule.get("annotations", {}).pop(link, None)
    assert groups(render(with_metrics(rules={"enabled": True}), tmp_path=tmp_path)) == plain


def test_rules_go_by_the_job_that_the_monitors_give_and_by_what_the_values_say(tmp_path: Path) -> None:
    rules = {
        "enabled": True,
        "runbookBaseUrl": "https://wiki.corp.example/runbooks/",
        "dashboardUrl": "https://grafana.corp.example/d/pull-secret-updater",
        "overrides": {
            "PullSecretExpired": {"for": "5m", "labels": {"severity": "page"}},
            "PullSecretContested": {"enabled": False},
        },
        "extra": [{"alert": "Mine", "expr": "vector(1)"}],
    }
    values = merged(with_metrics(rules=rules, serviceMonitor={"enabled": True}), {"nameOverride": "tokens"})
    objects = render(values, tmp_path=tmp_path)
    found = alerts(objects)
    (monitor,), (service,) = of_kind(objects, "ServiceMonitor"), of_kind(objects, "Service")
    job = service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    assert found["PullSecretUpdaterAbsent"]["expr"] == f'absent(up{{job="{job}"}} == 1)'
    assert job == "tokens"
    assert found["PullSecretExpired"]["for"] == "5m"
    assert found["PullSecretExpired"]["labels"] == {"severity": "page"}
    assert found["PullSecretExpired"]["annotations"]["runbook_url"].endswith("example/runbooks/PullSecretExpired.md")
    assert found["PullSecretExpired"]["annotations"]["dashboard_url"] == rules["dashboardUrl"]
    assert "PullSecretContested" not in found
    assert found["Mine"] == {"alert": "Mine", "expr": "vector(1)"}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups(objects)}))
    promtool("check", "rules", tmp_path / "rules.yaml")


def test_no_alert_is_lost_whatever_the_job_is_called(tmp_path: Path) -> None:
    job = 'a"b: #c'
    values = merged(example("chainguard"), {"metrics": {"rules": {"enabled": True, "job": job}}})
    found = alerts(render(values, tmp_path=tmp_path))
    plain = alerts(render(merged(values, at("metrics.rules.job", "")), tmp_path=tmp_path))
    assert len(found) == len(plain) > 10
    assert found["PullSecretUpdaterAbsent"]["expr"] == f"absent(up{{job={json.dumps(job)}}} == 1)"


def test_the_dashboard_is_that_of_manifests_where_a_sidecar_looks_for_it(tmp_path: Path) -> None:
    dashboard = {"enabled": True, "folder": "Platform", "namespace": "monitoring"}
    (shipped,) = [
        each
        for each in of_kind(render(with_metrics(dashboard=dashboard), tmp_path=tmp_path), "ConfigMap")
        if each["metadata"]["name"].endswith("-dashboard")
    ]
    assert shipped["metadata"]["namespace"] == "monitoring"
    assert shipped["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert shipped["metadata"]["annotations"] == {"grafana_folder": "Platform"}
    assert json.loads(shipped["data"]["pull-secret-updater.json"]) == json.loads(DASHBOARD.read_text())


# --- the same as manifests/ ---


def neutral(objects: list[Object], *, prefix: str, fullname: str, account: str) -> dict[tuple[str, str, str], Object]:
    """By kind, namespace and name, under the names of manifests/, without what only Helm or Kustomize adds."""
    found = {}
    for each in json.loads(_renamed(json.dumps(objects), prefix=prefix, fullname=fullname, account=account)):
        if each["kind"] in ("Namespace", "ConfigMap"):
            continue
        metadata = each.pop("metadata")
        if "template" in each.get("spec", {}):
            _neutral_pod(each["spec"]["template"])
        for selector in _selectors(each):
            selector.pop("app.kubernetes.io/instance", None)
        found[each["kind"], metadata.get("namespace", ""), metadata["name"]] = _with_single_spaces(each)
    return found


def _with_single_spaces(value: Any) -> Any:
    """Kustomize adds white space to long texts."""
    match value:
        case dict():
            return {key: _with_single_spaces(each) for key, each in value.items()}
        case list():
            return [_with_single_spaces(each) for each in value]
        case str():
            return " ".join(value.split())
    return value


def _renamed(text: str, *, prefix: str, fullname: str, account: str) -> str:
    text = text.replace(f":{account}'", ":controller'").replace(f'"{account}"', '"controller"')
    text = re.sub(rf'"{prefix}"', '"pull-secret-updater"', text)
    text = text.replace(f'"{prefix}-', '"pull-secret-updater-').replace(f'"{fullname}-metrics"', '"metrics"')
    return text.replace(f'"{fullname}"', '"controller"')


def _selectors(each: Object) -> list[Object]:
    spec = each.get("spec", {})
    found = [spec.get("selector", {}), spec.get("selector", {}).get("matchLabels", {})]
    return [selector for selector in found if isinstance(selector, dict)]


def _neutral_pod(template: Object) -> None:
    template["metadata"]["labels"] = {}
    spec = template["spec"]
    spec["containers"][0].pop("imagePullPolicy", None)
    spec["containers"][0].pop("env", None)
    spec["containers"][0]["image"] = ""
    renamed = {"oidc-token": "files-0"}
    for each in (*spec["volumes"], *spec["containers"][0]["volumeMounts"]):
        each["name"] = renamed.get(each["name"], each["name"])
    for volume in spec["volumes"]:
        if "configMap" in volume:
            volume["configMap"]["name"] = ""


def kustomized(cluster: Cluster, directory: Path) -> dict[tuple[str, str, str], Object]:
    """What Kustomize renders, with the same names taken away."""
    documents = list(yaml.safe_load_all(cluster.kubectl("kustomize", str(directory)).stdout))
    return neutral(documents, prefix=NAMESPACE, fullname="controller", account="controller")


def charted(values: Object, tmp_path: Path) -> dict[tuple[str, str, str], Object]:
    """What the chart renders, with the same names taken away."""
    objects = render(values, tmp_path=tmp_path)
    fullname = "psu-pull-secret-updater"
    return neutral(objects, prefix=f"{NAMESPACE}-{fullname}", fullname=fullname, account=fullname)


def test_the_chart_renders_what_manifests_has_under_other_names(cluster: Cluster, tmp_path: Path) -> None:
    assert charted(example("base"), tmp_path) == kustomized(cluster, installed.MANIFESTS)


TARGET = {"name": "everyone", "identity": IDENTITY}
COMPONENTS: dict[str, Object] = {
    "scope-cluster": {"scope": "cluster"},
    "targets": {"targets": [{**TARGET, "namespaces": [{"names": ["team-*"]}]}]},
    "service-accounts": {
        "targets": [{**TARGET, "namespaces": [{"names": ["team-*"]}], "serviceAccounts": ["default", "pull-secret"]}]
    },
    "tenant-proof": {"providers": {"chainguard": {**example("base")["config"]["providers"]["chainguard"]}}},
    "grants": {"grants": {"check": "both"}},
}


@pytest.mark.parametrize("component", COMPONENTS)
def test_what_a_component_adds_the_chart_adds_where_the_configuration_needs_it(
    cluster: Cluster, tmp_path: Path, component: str
) -> None:
    """All but ConfigMaps and Pods: the chart's controller reads its scope from the file."""
    overlay = installed.overlay(tmp_path, component)
    text = (overlay / "kustomization.yaml").read_text().replace("IDENTITY", IDENTITY)
    (overlay / "kustomization.yaml").write_text(text)
    (overlay / "config.yaml").write_text("{}")
    config = copy.deepcopy(COMPONENTS[component])
    if component == "tenant-proof":
        config["providers"]["chainguard"]["proof"] = "serviceAccount"
    found = charted(merged(example("base"), {"config": config}), tmp_path)
    wanted = kustomized(cluster, overlay)
    for key in {key for key in (*found, *wanted) if key[0] == "Deployment"}:
        del found[key], wanted[key]
    if component == "service-accounts":  # the policy of ServiceAccounts that ask comes only with them
        wanted = {key: each for key, each in wanted.items() if not key[2].endswith("-ask")}
        rules = wanted["ClusterRole", "", "pull-secret-updater-policies"]["rules"][0]
        rules["resourceNames"] = [name for name in rules["resourceNames"] if not name.endswith("-ask")]
    assert found == wanted


def test_in_listed_namespaces_a_role_each_and_nothing_in_the_cluster(tmp_path: Path) -> None:
    for name, suffix in (("namespaces", "secrets"), ("targets-named", "targets")):
        objects = render(example(name), tmp_path=tmp_path)
        roles = {
            (each["metadata"]["namespace"], each["metadata"]["name"].rpartition("-")[2])
            for each in of_kind(objects, "Role", "RoleBinding")
        }
        assert roles == {("team-a", suffix), ("team-b", suffix)}
        cluster_wide = {each["metadata"]["name"].rpartition("-")[2] for each in of_kind(objects, "ClusterRole")}
        assert cluster_wide == {"events", "policies"} | ({"secrets"} if name == "targets-named" else set())


# --- on a cluster ---


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_real_api_server_takes_every_object_of_each_example(cluster: Cluster, name: str, tmp_path: Path) -> None:
    objects = render(EXAMPLES[name], tmp_path=tmp_path)
    offer(cluster, [each for each in objects if not each["apiVersion"].startswith("monitoring.")])


def test_a_real_api_server_takes_names_that_yaml_could_take_for_something_else(
    cluster: Cluster, tmp_path: Path
) -> None:
    values = {
        "config": {"scope": "namespaces", "namespaces": ["1234", "true"]},
        "fullnameOverride": "789",
        "nameOverride": "12",
        "serviceAccount": {"name": "90"},
        "priorityClassName": "34",
        "caBundle": {"configMap": "0x1", "key": "56"},
        "networkPolicy": {"ingress": {"enabled": True}},
        "flowSchema": {"enabled": True},
        "test": {"enabled": True},
    }
    objects = render(merged(example("chainguard"), values), tmp_path=tmp_path, release="123", namespace="456")
    # The class is made by somebody else.
    offer(cluster, of_kind(objects, *({each["kind"] for each in objects} - {"Pod"})), namespace="456")


def names(objects: list[Object]) -> set[tuple[str, str, str]]:
    return {(each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]) for each in objects}


def test_two_releases_share_no_name_and_each_has_policies_about_its_own_service_account(tmp_path: Path) -> None:
    values = example("tenants")
    one = render(values, tmp_path=tmp_path, release="one", namespace="platform")
    two = render(values, tmp_path=tmp_path, release="two", namespace="platform")
    elsewhere = render(values, tmp_path=tmp_path, release="one", namespace="other")
    assert names(one) & names(two) == names(one) & names(elsewhere) == set()
    for objects, user in ((one, "platform:one-pull-secret-updater"), (elsewhere, "other:one-pull-secret-updater")):
        policies = of_kind(objects, "ValidatingAdmissionPolicy")
        mine = [each for each in policies if f"'system:serviceaccount:{user}'" in json.dumps(each)]
        assert {each["metadata"]["name"].rpartition("updater-")[2] for each in mine} == {
            *("own-writes", "other-name", "tenant-proof")
        }
        assert "pull-secret-updater:controller'" not in json.dumps(objects)


def test_as_a_dependency_under_two_names_it_renders_twice(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    (parent / "charts").mkdir(parents=True)
    (parent / "templates").mkdir()
    shutil.copytree(CHART, parent / "charts" / "pull-secret-updater")
    dependency = {"name": "pull-secret-updater", "version": "*", "repository": ""}
    aliases = [
        {**dependency, "alias": alias, "condition": f"{alias}.enabled"} for alias in ("first", "second", "third")
    ]
    chart = {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": aliases}
    (parent / "Chart.yaml").write_text(yaml.safe_dump(chart))
    own = example("chainguard")
    values = {"global": {"anything": 1}, "first": own, "second": own, "third": {"enabled": False}}
    (parent / "values.yaml").write_text(yaml.safe_dump(values))
    text = helm("template", "platform", parent, "-n", "platform", "--kube-version", KUBE_VERSION)
    objects = [each for each in yaml.safe_load_all(text) if each]
    assert len(of_kind(objects, "Deployment")) == 2
    assert len(names(objects)) == len(objects)


def configured(cluster: Cluster) -> Object:
    """The configuration of the release that is installed."""
    (config,) = (
        each
        for each in cluster.api.items(f"/api/v1/namespaces/{NAMESPACE}/configmaps")
        if each["metadata"]["name"].startswith("charted-")
    )
    loaded: Object = yaml.safe_load(config["data"]["config.yaml"])
    return loaded


@pytest.fixture
def release(cluster: Cluster, manifests: str, tmp_path: Path) -> Iterator[Callable[[Object], Object]]:
    """Installs or upgrades a release whose controller is the tests' own, by name; yields its configuration."""
    del manifests
    own = {"serviceAccount": {"create": False, "name": "controller"}, "fullnameOverride": "charted"}

    def install(values: Object) -> Object:
        (tmp_path / "values.yaml").write_text(yaml.safe_dump(merged(values, own)))
        arguments = ("-n", NAMESPACE, "-f", tmp_path / "values.yaml", "--kubeconfig", cluster.kubeconfig)
        helm("upgrade", "--install", "psu", CHART, *arguments)
        return configured(cluster)

    yield install
    helm("uninstall", "psu", "-n", NAMESPACE, "--kubeconfig", cluster.kubeconfig, "--ignore-not-found")


def test_100_tokens_live_through_install_upgrade_rollback_and_uninstall_and_nothing_of_ours_is_left(
    cluster: Cluster,
    release: Callable[[Object], Object],
    controller: Callable[..., ControllerProcess],
    tenants: Callable[[], Tenant],
    issuer: Issuer,
) -> None:
    def restarted(config: Object) -> ControllerProcess:
        return start(controller, {key: value for key, value in config.items() if key != "providers"})

    first = release(example("base"))
    assert first["policyPrefix"] == "pull-secret-updater-charted"
    started = restarted(first)
    assert started.metrics().value("policy_installed") == 3
    (shared,) = {tenant.identity for tenant in [tenants()]}
    everyone = [tenants() for _ in range(100)]
    issuer.behave(shared, Behaviour(lifetime_seconds=3600))
    for each in everyone:
        each.create(shared)
    before = {each.namespace: token(each.filled(shared).secret) for each in everyone}
    minted = issuer.minted(shared)

    config = release(merged(example("base"), {"config": {"limits": {"mintsPerSecond": 5}}}))
    assert config["limits"] == {"mintsPerSecond": 5}
    restarted(config)
    assert issuer.minted(shared) == minted
    assert {each.namespace: token(each.secret()) for each in everyone} == before

    helm("rollback", "psu", "1", "-n", NAMESPACE, "--kubeconfig", cluster.kubeconfig)
    assert configured(cluster) == first
    restarted(first)
    assert issuer.minted(shared) == minted
    assert {each.namespace: token(each.secret()) for each in everyone} == before

    helm("uninstall", "psu", "-n", NAMESPACE, "--kubeconfig", cluster.kubeconfig)
    left = cluster.kubectl(
        "get",
        "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,priorityclasses",
        *("-l", "app.kubernetes.io/instance=psu", "-o", "name"),
    )
    assert left.stdout == ""
    for kind in ("deployments", "configmaps", "services", "poddisruptionbudgets"):
        found = cluster.kubectl("get", kind, "-n", NAMESPACE, "-l", "app.kubernetes.io/instance=psu", "-o", "name")
        assert found.stdout == ""
    assert {each.namespace: token(each.secret()) for each in everyone} == before


def test_helm_tests_rights_are_enough_for_what_its_pod_runs_and_only_while_it_runs(
    cluster: Cluster, release: Callable[[Object], Object], tmp_path: Path
) -> None:
    tested = merged(example("chainguard"), {"test": {"enabled": True}})
    release(tested)
    installed.wait_for_policies(cluster)
    fullname = {"fullnameOverride": "charted", "serviceAccount": {"create": False, "name": "controller"}}
    objects = render(merged(tested, fullname), tmp_path=tmp_path)
    hooks = [each for each in objects if each["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]
    (pod,) = of_kind(hooks, "Pod")
    status = {"status": {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1}}
    merge = ("--subresource=status", "--type=merge", "-p", json.dumps(status))
    cluster.kubectl("patch", "deployment", "charted", "-n", NAMESPACE, *merge)
    rights = yaml.safe_dump_all(each for each in hooks if each is not pod)
    cluster.kubectl("apply", "-f", "-", input=rights)
    try:
        account = cluster.service_account_kubeconfig(NAMESPACE, pod["spec"]["serviceAccountName"])
        (container,) = pod["spec"]["containers"]
        done = eventually(
            lambda: _without_unknown(command(account, *container["args"], "-o", "json")),
            timeout=60,
            what="RBAC is in force",
        )
    finally:
        cluster.kubectl("delete", "-f", "-", "--ignore-not-found", input=rights)
    assert done is not None
    assert done.returncode == 0, done.stdout
    assert len(json.loads(done.stdout)["items"]) == 16
    cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", input=yaml.safe_dump(pod))
    assert "helm.sh/hook-delete-policy" in json.dumps(hooks)
    for each in hooks:
        found = cluster.kubectl("get", each["kind"], each["metadata"]["name"], "-n", NAMESPACE, check=False)
        assert "NotFound" in found.stderr, "an install leaves no right of the test behind"


def _without_unknown(done: "subprocess.CompletedProcess[str]") -> "subprocess.CompletedProcess[str] | None":
    """None while something could not be looked at."""
    return None if done.returncode == 3 else done


PAGE = (installed.ROOT / "docs" / "helm.md").read_text()


def test_the_page_installs_what_it_says(cluster: Cluster, manifests: str, tmp_path: Path) -> None:
    del manifests
    values = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert values[0].startswith("# values.yaml\n")
    (tmp_path / "values.yaml").write_text(values[0])
    (tmp_path / "manifests").symlink_to(installed.MANIFESTS)
    tools = f"{HELM[3].find_or_build()}:{kubectl().parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": tools, "KUBECONFIG": str(cluster.kubeconfig)}
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Secrets called pull-secret in all namespaces, and can read no other Secret" in done.stdout
        account = cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{NAMESPACE}")
        assert account["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    finally:
        helm("uninstall", NAMESPACE, "-n", NAMESPACE, "--kubeconfig", cluster.kubeconfig, "--ignore-not-found")


def test_every_piece_of_values_on_the_page_renders(tmp_path: Path) -> None:
    _, credentials = (
        yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    )
    assert credentials["credentials"] == example("crusoe")["credentials"]
    (deployment,) = of_kind(render(example("crusoe"), tmp_path=tmp_path), "Deployment")
    (volume,) = [each for each in deployment["spec"]["template"]["spec"]["volumes"] if each["name"] == "files-0"]
    items = [source["secret"]["items"] for source in volume["projected"]["sources"]]
    assert items == [
        [{"key": "CRUSOE_ACCESS_KEY", "path": "CRUSOE_ACCESS_KEY"}],
        [{"key": "CRUSOE_SECRET_KEY", "path": "CRUSOE_SECRET_KEY"}],
    ]
