"""JSON over HTTPS for a stand-in that runs as a Pod."""

import json
import os
from pathlib import Path
from typing import Any

import urllib3

from hack.standin.tokens import Get

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def in_pod() -> Get:
    """From the API server, as the Pod's own ServiceAccount; the token is read anew each time, as it is replaced."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    return get_from(f"https://{host}:{port}", ca=SERVICE_ACCOUNT / "ca.crt", token=SERVICE_ACCOUNT / "token")


def get_from(url: str, *, ca: Path, token: Path | None = None) -> Get:
    """From any server whose certificate this CA signed. What it returns raises KeyError where the answer isn't 200."""
    pool = urllib3.PoolManager(ca_certs=str(ca), retries=False, timeout=10)

    def get(path: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token.read_text().strip()}"} if token else {}
        answer = pool.request("GET", url + path, headers=headers)
        if answer.status != 200:
            raise KeyError(f"{path}: {answer.status}")
        found: dict[str, Any] = json.loads(answer.data)
        return found

    return get
