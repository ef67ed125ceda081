"""The chart as Helm renders it, and its examples of values."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from hack.chart import CHART, helm
from hack.chart.helm import KUBE_VERSION
from testing.controller import ControllerProcess
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import eventually

Object = dict[str, Any]
EXAMPLES = {file.name.removesuffix("-values.yaml"): file for file in sorted((CHART / "ci").iterdir())}


def render(
    values: Path | Object,
    *,
    tmp_path: Path,
    release: str = "psu",
    namespace: str = "pull-secret-updater",
    chart: Path = CHART,
    crds: Sequence[str] = (),
) -> list[Object]:
    """What Helm would install on a cluster with these CRDs, as `group/version/Kind`. Raises HelmError."""
    file = values
    if isinstance(values, dict):
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values))
    known = [f"--api-versions={crd}" for crd in crds]
    text = helm("template", release, chart, "-n", namespace, "-f", str(file), "--kube-version", KUBE_VERSION, *known)
    return [each for each in yaml.safe_load_all(text) if each]


def example(name: str) -> Object:
    """The values of an example."""
    found: Object = yaml.safe_load(EXAMPLES[name].read_text())
    return found


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """Those of these kinds."""
    return [each for each in objects if each["kind"] in kinds]


def merged(one: Object, other: Object) -> Object:
    """A copy of the first with the second over it."""
    result = copy.deepcopy(one)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def offer(cluster: Cluster, objects: list[Object], *, namespace: str = "pull-secret-updater") -> None:
    """Let the API server check each as if it were applied, unknown fields included. Raises ClusterError."""
    for name in {each["metadata"].get("namespace", namespace) for each in objects} | {namespace}:
        cluster.kubectl("create", "namespace", name, check=False)
    if objects:
        apply = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
        told = cluster.kubectl(*apply, input=yaml.safe_dump_all(objects))
        assert told.stdout.count("(server dry run)") == len(objects)


def start(controller: Callable[..., ControllerProcess], config: Object) -> ControllerProcess:
    """Start one with a release's configuration: a policy that was just installed takes the API server a moment."""

    def started() -> ControllerProcess | None:
        try:
            return controller(config=config)
        except AssertionError:
            return None

    found = eventually(started, timeout=60, what="it starts with the chart's policies")
    assert found is not None
    return found
