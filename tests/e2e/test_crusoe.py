"""Whoever comes from Crusoe's rotator: docs/migration.md is run on a cluster where the rotator has been at work."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from hack.chart import HELM, helm
from hack.localcluster import kubectl
from testing.api import ApiError
from testing.controller import ControllerProcess
from testing.crusoe import Crusoe
from testing.wire import Servers, Wire
from tests.e2e.support import kubelet
from tests.e2e.support.charts import start
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.installed import MANIFESTS
from tests.e2e.support.migration import blocks
from tests.e2e.support.tenant import FILL_SECONDS, TYPE, eventually

ROTATORS = "crusoe-system"
NAMESPACE = "pull-secret-updater"
SECRET = "crusoe-image-pull-secrets"
HOST = "registry.us-east1-a.ccr.crusoecloudcompute.com"
ALIAS = "of-this-cluster"
CRON_JOB = """
apiVersion: batch/v1
kind: CronJob
metadata: {name: crusoe-registry-token-rotator}
spec:
  schedule: {{ .Values.schedule | quote }}
  jobTemplate:
    spec:
      template:
        spec: {restartPolicy: Never, containers: [{name: rotate, image: rotator.example/rotate}]}
"""


class Reader:
    """Somebody who gives the page's commands in a directory with the chart, for two namespaces."""

    def __init__(self, cluster: Cluster, directory: Path, namespaces: list[str]) -> None:
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(cluster.kubeconfig),
            "PATH": f"{HELM[3].find_or_build()}:{kubectl().parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self._directory = directory
        self._namespaces = namespaces
        (directory / "manifests").symlink_to(MANIFESTS)

    def give(self, block: str) -> str:
        """Run one; what it said on standard error. The command about one team's Secret is given for each namespace."""
        lines = [
            line.replace("team-a", namespace)
            for line in block.splitlines()
            for namespace in (self._namespaces if "team-a" in line else [""])
        ]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{lines}\n{done.stderr}"
        return done.stderr


@pytest.fixture
def rotated(cluster: Cluster, manifests: str, namespaces: Callable[[], str], tmp_path: Path) -> Iterator[list[str]]:
    """Two namespaces with the rotator's Secret; the rotator is a release of Helm, whose job never runs here."""
    del manifests
    listed = [namespaces() for _ in range(2)]
    chart = tmp_path / "rotator"
    (chart / "templates").mkdir(parents=True)
    (chart / "templates" / "cronjob.yaml").write_text(CRON_JOB)
    about = {"apiVersion": "v2", "name": "crusoe-registry-token-rotator", "version": "1.0.0"}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    values = {
        "crusoeCredentialsSecretName": "crusoe-secrets",
        "schedule": "0 */6 * * *",
        "token": {"expirationHours": 6, "alias": ALIAS},
        "targetSecret": {
            "name": SECRET,
            "namespaces": listed,
            "registryUrl": HOST,
            "registryUsername": "puller@acme.example",
        },
    }
    (tmp_path / "rotators-values.yaml").write_text(yaml.safe_dump(values))
    where = ("-n", ROTATORS, "--kubeconfig", cluster.kubeconfig)
    helm("install", about["name"], chart, *where, "--create-namespace", "-f", tmp_path / "rotators-values.yaml")
    for namespace in listed:
        login = {"auths": {HOST: {"auth": "cHVsbGVyOm9sZA=="}}}
        cluster.api.post(
            f"/api/v1/namespaces/{namespace}/secrets",
            {"metadata": {"name": SECRET}, "type": TYPE, "stringData": {".dockerconfigjson": json.dumps(login)}},
        )
    yield listed
    helm("uninstall", "pull-secret-updater", *where, "--ignore-not-found")
    helm("uninstall", about["name"], *where)
    for namespace in listed:
        cluster.api.delete(f"/api/v1/namespaces/{namespace}/secrets/{SECRET}")
    cluster.kubectl("delete", "namespace", ROTATORS, "--wait=false")


def test_the_page_takes_the_rotators_values_over_and_its_secret_is_valid_in_each_namespace(
    cluster: Cluster, rotated: list[str], controller: Callable[..., ControllerProcess], tmp_path: Path
) -> None:
    reader = Reader(cluster, tmp_path, rotated)
    migrate, install, switch = blocks("Crusoe's registry token rotator")
    assert "image.registry" in reader.give(migrate)

    # What the reader fills in; and here no node runs the controller, so it is the one that a test may start.
    values = yaml.safe_load((tmp_path / "values.yaml").read_text())
    assert values["namespaceOverride"] == ROTATORS
    filled_in = {"image": {"registry": "registry.example.com", "repository": "pull-secret-updater"}}
    here = {
        "namespaceOverride": NAMESPACE,
        "fullnameOverride": "charted",
        "serviceAccount": {"create": False, "name": "controller"},
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({**values, **filled_in, **here}))
    reader.give(install)
    (config,) = (
        yaml.safe_load(each["data"]["config.yaml"])
        for each in cluster.api.items(f"/api/v1/namespaces/{NAMESPACE}/configmaps")
        if each["metadata"]["name"].startswith("charted-")
    )

    keys = {"access_key": "AK-puller", "secret_key": secrets.token_urlsafe(32)}
    (provider,) = config["providers"].values()
    for setting, value in zip(("accessKey", "secretKey"), keys.values(), strict=True):
        (tmp_path / setting).write_text(value)
        provider[setting] = {"file": str(tmp_path / setting)}
    crusoe = Crusoe(time.time, **keys)

    def password(namespace: str) -> str:
        try:
            secret = cluster.api.get(f"/api/v1/namespaces/{namespace}/secrets/{SECRET}")
        except ApiError:  # it isn't there yet
            return ""
        return kubelet.credentials(secret).get(HOST, ("", ""))[1]

    with Servers() as servers:
        provider["apiUrl"] = f"{servers.serve(Wire(crusoe, clock=time.time))}/v1"
        started = start(controller, config)
        eventually(
            lambda: started.metrics().value("target_namespaces", state="conflict") == len(rotated),
            timeout=FILL_SECONDS,
            what="both namespaces are in conflict",
        )
        assert {password(namespace) for namespace in rotated} == {"old"}

        reader.give(switch)
        for namespace in rotated:
            eventually(
                partial(lambda where: password(where) in crusoe.minted, namespace),
                timeout=FILL_SECONDS,
                what=f"made and filled in {namespace}",
            )
        cluster.issued_tokens.extend(crusoe.minted)
    assert [each.get("alias") for each in crusoe.wanted] == [ALIAS], "one token for both"
    job = cluster.api.get(f"/apis/batch/v1/namespaces/{ROTATORS}/cronjobs/crusoe-registry-token-rotator")
    assert job["spec"]["suspend"] is True
