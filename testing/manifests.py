"""manifests/ as a user applies them, except what only a node can run; here, the controller is a local process."""

import json
from pathlib import Path
from typing import Any

import yaml

from testing.cluster import Cluster

DIRECTORY = Path(__file__).parents[1] / "manifests"
NEEDS_NODES = frozenset({"Deployment", "PodDisruptionBudget"})

Manifest = dict[str, Any]


def render(cluster: Cluster, directory: Path = DIRECTORY) -> list[Manifest]:
    """What `kubectl apply -k` would send, without the Deployment and its PodDisruptionBudget."""
    documents: list[Manifest] = list(yaml.safe_load_all(cluster.kubectl("kustomize", str(directory)).stdout))
    return [document for document in documents if document["kind"] not in NEEDS_NODES]


def missing(cluster: Cluster, manifests: list[Manifest]) -> list[Manifest]:
    """Those that the cluster doesn't have yet."""
    arguments = ("get", "--ignore-not-found", "--output=json", "--filename=-")
    answer = json.loads(cluster.kubectl(*arguments, input=dump(manifests)).stdout or '{"items": []}')
    there = {_name(item) for item in answer.get("items", [answer])}
    return [manifest for manifest in manifests if _name(manifest) not in there]


def remove(cluster: Cluster, manifests: list[Manifest]) -> None:
    """Delete these, and return when they are gone. Raises ClusterError if that takes more than a minute."""
    cluster.kubectl("delete", "--ignore-not-found", "--wait=false", "--filename=-", input=dump(manifests))
    if not _has_controllers(cluster):
        for manifest in manifests:
            if manifest["kind"] == "Namespace":
                _finish(cluster, manifest["metadata"]["name"])
    cluster.kubectl("delete", "--ignore-not-found", "--timeout=60s", "--filename=-", input=dump(manifests))


def _has_controllers(cluster: Cluster) -> bool:
    """Whether there is a kube-controller-manager, which gives every namespace a ServiceAccount `default`."""
    look = ("get", "serviceaccount", "default", "--namespace=kube-system")
    return cluster.kubectl(*look, check=False).returncode == 0


def _finish(cluster: Cluster, namespace: str) -> None:
    """Finalise a deleted, empty namespace on a cluster where nothing else does (hack/cluster)."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}, "spec": {"finalizers": []}}
    path = f"/api/v1/namespaces/{namespace}/finalize"
    cluster.kubectl("replace", f"--raw={path}", "--filename=-", input=json.dumps(body))


def dump(manifests: list[Manifest]) -> str:
    """The objects as YAML, for kubectl."""
    return yaml.safe_dump_all(manifests)


def _name(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["kind"], manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]
