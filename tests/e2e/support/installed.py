"""Installs manifests/ as a user does, but for what a cluster without nodes can't run."""

import re
import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from testing.mounted import USER
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import PREFIX, TYPE

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "manifests"
NEEDS_NODES = {"Deployment", "PodDisruptionBudget"}
POLICY_SECONDS = 30.0
POLICY_PROBE = "e2e-policy-probe"
"""A namespace in which the policies are tried."""


def render(directory: Path = MANIFESTS, *, cluster: Cluster) -> str:
    """What `kubectl apply -k` would send, without the Deployment and its PodDisruptionBudget."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(cluster.kubectl("kustomize", str(directory)).stdout))
    return yaml.safe_dump_all(document for document in documents if document["kind"] not in NEEDS_NODES)


def overlay(tmp_path: Path, component: str) -> Path:
    """Exactly what the component's own first comment tells to write, beside a copy of manifests/."""
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    text = (MANIFESTS / "components" / component / "kustomization.yaml").read_text()
    directory = tmp_path / "overlay"
    directory.mkdir()
    (directory / "kustomization.yaml").write_text("\n".join(re.findall(r"^#   (\w+: .*)$", text, flags=re.MULTILINE)))
    return directory


def install(cluster: Cluster, manifests: str) -> None:
    """Apply, and wait until the API server enforces the policies: a new one takes it a moment to compile."""
    cluster.kubectl("apply", "-f", "-", input=manifests)
    wait_for_policies(cluster)


def wait_for_policies(cluster: Cluster) -> None:
    """Until the API server refuses, by policy, what each of them forbids."""
    probe = POLICY_PROBE
    if cluster.kubectl("get", "namespace", probe, check=False).returncode != 0:
        cluster.kubectl("create", "namespace", probe)
    _delete_probe(cluster, probe)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "pull-secret", "namespace": probe, "annotations": {PREFIX + "identity": "probe"}},
        "type": TYPE,
        "stringData": {".dockerconfigjson": "{}"},
    }
    opaque = {**secret, "type": "Opaque", "metadata": {"name": "opaque", **_named(secret, probe)}}
    cluster.kubectl("create", "-f", "-", input=yaml.safe_dump(secret))
    label = ("label", "secret", "pull-secret", "-n", probe, "--overwrite", "probe=1", "--dry-run=server")
    deadline = time.monotonic() + POLICY_SECONDS
    while True:
        refused = [
            cluster.kubectl("create", "--dry-run=server", "-f", "-", input=yaml.safe_dump(opaque), check=False),
            cluster.kubectl(*label, kubeconfig=cluster.kubeconfig_for(USER), check=False),
        ]
        if all("ValidatingAdmissionPolicy" in result.stderr for result in refused):
            break
        assert time.monotonic() < deadline, f"policies are not enforced: {[one.stderr for one in refused]}"
        time.sleep(0.1)
    _delete_probe(cluster, probe)


def _named(secret: dict[str, Any], namespace: str) -> dict[str, Any]:
    return {"namespace": namespace, "annotations": secret["metadata"]["annotations"]}


def _delete_probe(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("delete", "secret", "pull-secret", "-n", namespace, "--ignore-not-found")
