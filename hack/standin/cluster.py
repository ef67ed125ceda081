"""One Kubernetes cluster, whoever runs it: kubectl, kubeconfigs for anyone, and ServiceAccount tokens."""

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
from hack.standin.api import Api

SURPRISES = ("insecure-skip-tls-verify", "proxy-url", "tls-server-name")
"""What a kubeconfig can say of a cluster and a Pod can't be told."""


class ClusterError(Exception):
    """The cluster, or kubectl, did not do what was asked; the message has kubectl's own words."""


class Cluster:
    """A cluster of which `kubeconfig` is an admin.

    Other users are impersonated, which authenticates differently and authorises the same: RBAC and admission policies
    see the user and the groups that were asked for.
    """

    def __init__(self, kubeconfig: Path, *, directory: Path) -> None:
        """Kubeconfigs and the CA are written into `directory`. Raises ClusterError."""
        self.kubeconfig = kubeconfig
        self.issued_tokens: list[str] = []
        """Every ServiceAccount token that was asked for here; none may ever be seen in a log."""
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
        """Host and port, as a Pod's environment names them. Raises ClusterError where these two are not enough."""
        parts = urllib.parse.urlsplit(self.url)
        surprises = [key for key in SURPRISES if self._described.get(key)]
        if parts.scheme != "https" or parts.path.strip("/") or not parts.hostname or surprises:
            because = f" with {', '.join(surprises)}" if surprises else ""
            raise ClusterError(f"a Pod could not reach {self.url}{because}: only https://HOST:PORT will do")
        return parts.hostname, parts.port or 443

    def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002 - its name in subprocess
        kubeconfig: Path | None = None,
        check: bool = True,
    ) -> "subprocess.CompletedProcess[str]":
        """Run kubectl, by default as the admin. With `check`, a failure raises ClusterError with what kubectl said."""
        command = [str(kubectl()), "--kubeconfig", str(kubeconfig or self.kubeconfig), *args]
        result = subprocess.run(command, input=input, capture_output=True, text=True, timeout=120, check=False)
        if check and result.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(args)}: {result.stderr.strip()}")
        return result

    def kubeconfig_for(self, user: str, groups: tuple[str, ...] = ()) -> Path:
        """A kubeconfig of someone who is in these groups and `system:authenticated`."""
        admin = self._view["users"][0]["user"]
        return self._write({**admin, "as": user, "as-groups": [*groups, "system:authenticated"]})

    def kubeconfig_in(self, namespace: str) -> Path:
        """The admin's kubeconfig with this namespace as the default, as `kubectl config set-context` makes it."""
        context = {**self._view["contexts"][0], "context": {**self._view["contexts"][0]["context"]}}
        context["context"]["namespace"] = namespace
        return self._write(self._view["users"][0]["user"], contexts=[context])

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a real token of this ServiceAccount, good for an hour."""
        return self._write({"token": self.service_account_token(namespace, name)})

    def service_account_token(self, namespace: str, name: str, *, audience: str | None = None) -> str:
        """A token by the TokenRequest API, good for an hour; for the API server itself if no audience is named."""
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
    """The CA that the kubeconfig names, else those that this machine trusts."""
    if data := described.get("certificate-authority-data"):
        return base64.b64decode(data)
    certificates = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, certificates)).encode()
