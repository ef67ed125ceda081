"""The cluster under test: any cluster, and what its API server was asked."""

from pathlib import Path
from typing import Any

from testing import cluster
from tests.e2e.support.requests import AuditLog


class Cluster(cluster.Cluster):
    """A cluster of which `kubeconfig` is an admin."""

    def __init__(self, kubeconfig: Path, *, directory: Path, audit_log: Path | None = None) -> None:
        super().__init__(kubeconfig, directory=directory)
        self.audit_log = audit_log
        """None on a cluster that isn't ours to configure."""
        self.logs: list[Path] = []

    def audit(self) -> AuditLog:
        """What the API server was asked by the controller. Raises AssertionError on a cluster that isn't ours."""
        assert self.audit_log is not None, "needs the API server's audit log"
        return AuditLog(self.audit_log)

    def events(self, namespace: str, name: str) -> list[dict[str, Any]]:
        """The Events about the Secret `name`, as `kubectl events --for secret/<name>` finds them."""
        selector = f"involvedObject.kind=Secret,involvedObject.name={name}"
        return self.api.items(f"/api/v1/namespaces/{namespace}/events?fieldSelector={selector}")
