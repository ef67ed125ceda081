"""Self-contained kubeconfig files."""

import base64
import json

from hack.pki import Pair


def render(server: str, *, ca: bytes, user: str, pair: Pair) -> bytes:
    """A kubeconfig with one context: this user with a client certificate, and this server, verified with this CA."""
    cluster = {"server": server, "certificate-authority-data": _text(ca)}
    credentials = {"client-certificate-data": _text(pair.certificate), "client-key-data": _text(pair.key)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": user}}],
        "current-context": "local",
    }
    return json.dumps(content, indent=2).encode()  # JSON is YAML too


def _text(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
