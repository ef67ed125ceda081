"""Secrets of others where a target's Secret should be: whatever the controller does, no byte of one may change."""

import base64
import json
from collections.abc import Collection, Mapping
from typing import Any

from testing.api import ApiError
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import PREFIX, TYPE

MARK = PREFIX + "created-by"
EMPTY = base64.b64encode(b"{}").decode()
Object = dict[str, Any]


def kinds(identity: str) -> dict[str, Object]:
    """Twelve of them, each as it is created; one asks for `identity` itself, and is paused."""
    data: Object = {".dockerconfigjson": EMPTY}
    full = {".dockerconfigjson": base64.b64encode(json.dumps({"auths": {"q.io": {"auth": "YTpi"}}}).encode()).decode()}

    def secret(kind: str = TYPE, content: Object = data, /, **more: Any) -> Object:
        inner = {key: more.pop(key) for key in tuple(more) if key != "immutable"}
        return {"metadata": {"name": "pull-secret", **inner}, "type": kind, "data": content, **more}

    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "0" * 8}
    return {
        "opaque": secret("Opaque", {"password": "eA=="}),
        "another type": secret("kubernetes.io/basic-auth", {"username": "eA==", "password": "eA=="}),
        "a credential": secret(TYPE, full),
        "empty": secret(),
        "immutable": secret(immutable=True),
        "of Helm": secret(labels={"app.kubernetes.io/managed-by": "Helm"}),
        "owned": secret(ownerReferences=[owner]),
        "with a finalizer": secret(finalizers=["example.com/kept"]),
        "of another installation": secret(labels={MARK: "elsewhere.controller"}),
        "with our annotation": secret(annotations={PREFIX + "target": "everyone"}),
        "paused": secret(annotations={PREFIX + "identity": identity, PREFIX + "paused": "true"}),
        "another key too": secret(TYPE, {**data, "other": "eA=="}),
    }


class Strangers:
    """One of each kind, in the namespace that `names` has for it."""

    def __init__(self, cluster: Cluster, names: Mapping[str, str], *, identity: str) -> None:
        self.names = names
        self.before: dict[str, Object] = {}
        """Each as the API server returned it when it was created."""
        self._cluster = cluster
        self._api = cluster.api
        self._kinds = kinds(identity)

    def arrive(self) -> None:
        """Each takes its place, also where a Secret is that the controller makes again as soon as it goes."""
        for kind, name in self.names.items():
            while kind not in self.before:
                self._api.delete(f"{_path(name)}/pull-secret")
                try:
                    self.before[kind] = self._api.post(_path(name), self._kinds[kind])
                except ApiError as error:
                    if error.status != 409:  # the controller was faster
                        raise

    def now(self, kind: str) -> Object:
        """What is in its place."""
        return self._api.get(f"{_path(self.names[kind])}/pull-secret")

    def changed(self, *, but: Collection[str] = ()) -> list[str]:
        """The kinds of which anything differs from what it was: data, metadata, resourceVersion, managed fields."""
        return [kind for kind, was in self.before.items() if kind not in but and self.now(kind) != was]

    def told(self, kind: str) -> list[str]:
        """The reasons of the Events about it."""
        return [event["reason"] for event in self._cluster.events(self.names[kind], "pull-secret")]

    def leave(self) -> None:
        """All that are still there go, whatever holds one back."""
        for kind, name in self.names.items():
            if kind not in self.before:
                continue
            try:
                self._api.patch(f"{_path(name)}/pull-secret", {"metadata": {"finalizers": None}})
            except ApiError as error:
                if error.status != 404:
                    raise
            self._api.delete(f"{_path(name)}/pull-secret")


def _path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets"
