"""JSON over HTTPS, for a stand-in that runs as a Pod."""

import json
import os
from pathlib import Path
from typing import Any

import urllib3

from testing.tokens import Get

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def in_pod() -> Get:
    """GET from the API server, as the Pod's ServiceAccount; reads the token every time, since it is rotated."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    return get_from(f"https://{host}:{port}", ca=SERVICE_ACCOUNT / "ca.crt", token=SERVICE_ACCOUNT / "token")


def get_from(url: str, *, ca: Path, token: Path | None = None) -> Get:
    """GET from a server whose certificate this CA signed. The returned function raises KeyError unless it gets 200."""
    pool = urllib3.PoolManager(ca_certs=str(ca), retries=False, timeout=10)

    def get(path: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token.read_text().strip()}"} if token else {}
        answer = pool.request("GET", url + path, headers=headers)
        if answer.status != 200:
            raise KeyError(f"{path}: {answer.status}")
        found: dict[str, Any] = json.loads(answer.data)
        return found

    return get
