"""A Kubernetes cluster of any kind: kubectl, kubeconfigs for any user, and ServiceAccount tokens."""

import base64
import json
import ssl
import subprocess
import threading
import urllib.parse
import uuid
from pathlib import Path
from typing import Any

import yaml

from hack.localcluster import kubectl
from testing.api import Api

SURPRISES = ("insecure-skip-tls-verify", "proxy-url", "tls-server-name")
"""Settings of a cluster that a kubeconfig can have and a Pod can't."""


class ClusterError(Exception):
    """The cluster or kubectl failed; the message has kubectl's output."""


class Cluster:
    """A cluster, used as the admin of `kubeconfig`.

    It impersonates other users. Only authentication differs then: RBAC and admission policies see the impersonated user
    and groups.
    """

    def __init__(self, kubeconfig: Path, *, directory: Path) -> None:
        """Write kubeconfigs and the CA into `directory`. Raises ClusterError."""
        self.kubeconfig = kubeconfig
        self.issued_tokens: list[str] = []
        """Every ServiceAccount token that was requested here; none may ever appear in a log."""
        self._directory = directory
        self._lock = threading.Lock()
        view = self.kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json").stdout
        self._view: dict[str, Any] = json.loads(view)
        self._described: dict[str, Any] = self._view["clusters"][0]["cluster"]
        self.api = Api(kubeconfig)
        self.url = str(self._described["server"])
        self.ca = directory / "ca.crt"
        self.ca.write_bytes(_authority(self._described))

    def address(self) -> tuple[str, int]:
        """Host and port, as a Pod's environment names them. Raises ClusterError if these two are not enough."""
        parts = urllib.parse.urlsplit(self.url)
        surprises = [key for key in SURPRISES if self._described.get(key)]
        if parts.scheme != "https" or parts.path.strip("/") or not parts.hostname or surprises:
            because = f" with {', '.join(surprises)}" if surprises else ""
            raise ClusterError(f"a Pod could not reach {self.url}{because}; it needs a plain https://HOST:PORT")
        return parts.hostname, parts.port or 443

    def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002 - its name in subprocess
        kubeconfig: Path | None = None,
        check: bool = True,
    ) -> "subprocess.CompletedProcess[str]":
        """Run kubectl, by default as the admin. With `check`, a failure raises ClusterError with kubectl's output."""
        command = [str(kubectl()), "--kubeconfig", str(kubeconfig or self.kubeconfig), *args]
        result = subprocess.run(command, input=input, capture_output=True, text=True, timeout=120, check=False)
        if check and result.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(args)}: {result.stderr.strip()}")
        return result

    def kubeconfig_for(self, user: str, groups: tuple[str, ...] = ()) -> Path:
        """A kubeconfig of a user in these groups and `system:authenticated`."""
        admin = self._view["users"][0]["user"]
        return self._write({**admin, "as": user, "as-groups": [*groups, "system:authenticated"]})

    def kubeconfig_in(self, namespace: str) -> Path:
        """The admin's kubeconfig with this namespace as the default, as by `kubectl config set-context`."""
        context = {**self._view["contexts"][0], "context": {**self._view["contexts"][0]["context"]}}
        context["context"]["namespace"] = namespace
        return self._write(self._view["users"][0]["user"], contexts=[context])

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a real token of this ServiceAccount, valid for an hour."""
        return self._write({"token": self.service_account_token(namespace, name)})

    def service_account_token(self, namespace: str, name: str, *, audience: str | None = None) -> str:
        """A token from the TokenRequest API, valid for an hour; by default, its audience is the API server."""
        spec = {"expirationSeconds": 3600, **({"audiences": [audience]} if audience else {})}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        token = str(self.api.post(path, body)["status"]["token"])
        with self._lock:
            self.issued_tokens.append(token)
        return token

    def _write(self, user: dict[str, Any], **changes: Any) -> Path:
        view = {**self._view, **changes, "users": [{"name": self._view["users"][0]["name"], "user": user}]}
        path = self._directory / f"{uuid.uuid4()}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(view))
        return path


def _authority(described: dict[str, Any]) -> bytes:
    """The CA that the kubeconfig names, else the CAs that this machine trusts."""
    if data := described.get("certificate-authority-data"):
        return base64.b64decode(data)
    certificates = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, certificates)).encode()
