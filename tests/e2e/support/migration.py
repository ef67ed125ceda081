"""What docs/migration.md speaks of: its commands, somebody who gives them, and the objects of the old writers."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from hack.localcluster import kubectl
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.installed import ROOT
from tests.e2e.support.tenant import Tenant

PAGE = (ROOT / "docs" / "migration.md").read_text()
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IDENTITY = re.compile(r"\b[0-9a-f]{40}/[0-9a-f]{16}\b")
JOB = "refresh-pull-secret"
JOBS_OBJECTS = f"""
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {JOB}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {JOB}}}
rules:
- {{apiGroups: [""], resources: [secrets], verbs: [get, create, patch, delete]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {JOB}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {JOB}}}
subjects: [{{kind: ServiceAccount, name: {JOB}}}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {{name: {JOB}}}
spec:
  schedule: 0 */6 * * *
  jobTemplate:
    spec:
      template:
        spec:
          serviceAccountName: {JOB}
          restartPolicy: Never
          containers: [{{name: refresh, image: refresh.example/kubectl}}]
"""
OLD_CONTROLLERS_OBJECTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: controller, namespace: pull-secret-updater}
spec:
  replicas: 0
  selector: {matchLabels: {app: controller}}
  template:
    metadata: {labels: {app: controller}}
    spec: {serviceAccountName: controller, containers: [{name: controller, image: old.example/controller}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: pull-secret-updater}
rules: [{apiGroups: [""], resources: [secrets], verbs: [get, list, update, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: pull-secret-updater}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: pull-secret-updater}
subjects: [{kind: ServiceAccount, name: controller, namespace: pull-secret-updater}]
"""

EXTERNAL = {
    "externalsecrets.external-secrets.io": ("v1", "ExternalSecret", "pull-secret"),
    "ecrauthorizationtokens.generators.external-secrets.io": ("v1alpha1", "ECRAuthorizationToken", "ecr"),
}
"""What the page names of the External Secrets operator: by resource its version, its kind, and an object."""


def blocks(section: str) -> list[str]:
    """The shell blocks under a heading of the page, as they stand."""
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return BLOCK.findall(text)


class Reader:
    """Somebody with a shell in the tenant's namespace, who gives the page's commands for the tenant's identity."""

    def __init__(self, cluster: Cluster, tenant: Tenant) -> None:
        self._identity = tenant.identity
        self._kubeconfig = cluster.kubeconfig_in(tenant.namespace)
        self._cluster = cluster
        self.trial = f"{tenant.namespace}-trial"

    def blocks(self, section: str) -> list[str]:
        """The shell blocks under a heading of the page, for the tenant's identity and a trial of its own."""
        mine = (IDENTITY.sub(self._identity, block) for block in blocks(section))
        return [block.replace("pull-secret-trial", self.trial) for block in mine]

    def give(self, block: str) -> str:
        """Run one block; what it printed. All its commands must succeed."""
        environment = {**os.environ, "KUBECONFIG": str(self._kubeconfig)}
        environment["PATH"] = f"{Path(kubectl()).parent}:{environment['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            env=environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def kubectl(self, *args: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        """One command beside those of the page."""
        return self._cluster.kubectl(*args, kubeconfig=self._kubeconfig, **more)


def definition(resource: str) -> dict[str, Any]:
    """A CustomResourceDefinition that takes everything."""
    (plural, _, group), (version, kind, _) = resource.partition("."), EXTERNAL[resource]
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    spec = {"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind, "singular": kind.lower()}}
    versions = [{"name": version, "served": True, "storage": True, "schema": schema}]
    identified = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    return {**identified, "metadata": {"name": resource}, "spec": {**spec, "versions": versions}}
