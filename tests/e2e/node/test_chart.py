"""A second installation, by the Helm chart: from `helm install` to the first Pod that pulls."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.chart import CHART, helm
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.incluster import IMAGE, NAMESPACE, InCluster
from tests.e2e.support.pods import Pods
from tests.e2e.support.tenant import Tenant

SECRET = "charted"
RELEASE = "charted"


@pytest.fixture
def values(world: InCluster, tmp_path: Path) -> Path:
    """The running installation's provider, for Secrets of another name; the issuer trusts that ServiceAccount."""
    api = world.cluster.api
    mounted = api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/controller")["spec"]["template"]["spec"]
    (config_map,) = [each["configMap"]["name"] for each in mounted["volumes"] if each["name"] == "config"]
    config = yaml.safe_load(api.get(f"/api/v1/namespaces/{NAMESPACE}/configmaps/{config_map}")["data"]["config.yaml"])
    (provider,) = config["providers"].values()
    provider["caFile"] = f"/etc/pull-secret-updater-ca/{Path(provider['caFile']).name}"
    registry, _, repository = IMAGE[0].partition("/")
    content: dict[str, Any] = {
        "config": {"secretNames": [SECRET], "providers": config["providers"]},
        "image": {"registry": registry, "repository": repository, "tag": IMAGE[1]},
        "caBundle": {"configMap": config_map, "key": "issuer-ca.crt"},
        "serviceAccount": {"create": False, "name": "controller"},
        "nameOverride": RELEASE,
    }
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def uninstalled(cluster: Cluster) -> Iterator[None]:
    """Takes the release away in the end."""
    yield
    helm("uninstall", RELEASE, "-n", NAMESPACE, "--kubeconfig", cluster.kubeconfig, "--ignore-not-found")


@pytest.mark.usefixtures("uninstalled")
def test_from_helm_install_to_a_pod_that_pulls(
    world: InCluster, values: Path, tenant: Tenant, pods: Pods, tell: Callable[[str], None]
) -> None:
    began = time.monotonic()
    to_it = ("-n", NAMESPACE, "-f", values, "--kubeconfig", world.cluster.kubeconfig)
    helm("install", RELEASE, CHART, *to_it, "--wait", "--timeout", "90s")
    ready = time.monotonic() - began
    tenant.create(name=SECRET)
    tenant.filled(name=SECRET)
    name = pods.create("hello/tenth", secret=SECRET)
    pods.runs(name)
    tell(f"helm install until ready: {ready:.1f} s; until a Pod has pulled: {time.monotonic() - began:.1f} s")
    admitted = [one for one in world.decisions("hello/tenth") if one["admitted"]]
    assert {one["subject"] for one in admitted} == {tenant.identity}
