"""One namespace of one test, and the pull Secret in it as its user sees it."""

import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tests.e2e.support import kubelet
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.observer import Observer, Secret, Version

PREFIX = "pull-secret-updater.chainguard.dev/"
TYPE = kubelet.SECRET_TYPE
FILL_SECONDS = 10.0
"""How long a fill may take on a busy machine of two cores; it takes some 30 ms on one at rest."""

AT_ONCE_SECONDS = 5.0
"""Within this, also on a busy machine, what happens at once has happened. How fast it really is: `hack/bench`."""


EVENT_SECONDS = 90.0
"""How long an Event may take: who shares a controller shares its 50 at once, and waits a second for each after that."""


def new_identity() -> str:
    """An identity of Chainguard's shape that no other test uses."""
    return f"{secrets.token_hex(20)}/{secrets.token_hex(8)}"


T = TypeVar("T")


def eventually(look: Callable[[], T], *, timeout: float, what: str, pause: float = 0.05) -> T:
    """The first truthy answer, asked again after a pause; for what can't be watched. Raises AssertionError."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what}: not after {timeout} s"
        time.sleep(pause)
    return found


def annotation(secret: Secret, key: str) -> str | None:
    """One of the controller's annotations, by its key without prefix."""
    value: str | None = secret["metadata"].get("annotations", {}).get(PREFIX + key)
    return value


REGISTRY = "cgr.dev"


def token(secret: Secret, registry: str = REGISTRY) -> str:
    """The password for the registry as a kubelet reads it; empty if there is none. Raises RejectedError."""
    return kubelet.credentials(secret).get(registry, ("", ""))[1]


def filled_for(identity: str, registry: str = REGISTRY) -> Callable[[Secret], bool]:
    """Whether a Secret holds a valid token for this identity, as its user, and is annotated as filled."""

    def look(secret: Secret) -> bool:
        try:
            user, password = kubelet.credentials(secret).get(registry, ("", ""))
        except kubelet.RejectedError:
            return False
        if user != "_token" or not annotation(secret, "expires-at"):
            return False
        claims = kubelet.claims(password)
        return bool(claims["sub"] == identity and claims["exp"] > time.time())

    return look


class Tenant:
    """A fresh namespace; its Secrets are deleted when the test ends."""

    def __init__(self, cluster: Cluster, observer: Observer, *, registry: str = REGISTRY) -> None:
        self.registry = registry
        """For which its tokens are."""
        self.namespace = f"e2e-{secrets.token_hex(5)}"
        self.identity = new_identity()
        self._cluster = cluster
        self._api = cluster.api
        self._observer = observer
        self._names: set[str] = set()
        self._api.post("/api/v1/namespaces", {"metadata": {"name": self.namespace}})

    @property
    def path(self) -> str:
        """Of the Secrets of the namespace, at the API server."""
        return f"/api/v1/namespaces/{self.namespace}/secrets"

    def create(
        self,
        identity: str | None = None,
        *,
        config: object = None,
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
        name: str = "pull-secret",
        **fields: Any,
    ) -> Secret:
        """Create a pull Secret that asks for `identity`, by default the tenant's own; `""` asks for none."""
        asked = self.identity if identity is None else identity
        ours = {PREFIX + key: value for key, value in (annotations or {}).items()}
        body = {
            "metadata": {
                "name": name,
                "labels": dict(labels or {}),
                "annotations": {**({PREFIX + "identity": asked} if asked else {}), **ours},
            },
            "type": TYPE,
            "stringData": {kubelet.KEY: json.dumps({} if config is None else config), **(data or {})},
            **fields,
        }
        self._names.add(name)
        return self._api.post(self.path, body)

    def annotate(self, name: str = "pull-secret", /, **values: str | None) -> Secret:
        """Set our annotations, by key without prefix and with `_` for `-`; None removes one."""
        ours = {PREFIX + key.replace("_", "-"): value for key, value in values.items()}
        return self.patch({"metadata": {"annotations": ours}}, name=name)

    def set_config(self, config: object) -> Secret:
        """Replace the docker config, as `kubectl apply` of the user's manifest does; bytes as they are."""
        encoded = base64.b64encode(config if isinstance(config, bytes) else json.dumps(config).encode()).decode()
        return self.patch({"data": {kubelet.KEY: encoded}})

    def patch(self, body: object, *, name: str = "pull-secret") -> Secret:
        """Any merge patch, as the cluster's admin."""
        return self._api.patch(f"{self.path}/{name}", body)

    def secret(self, name: str = "pull-secret") -> Secret:
        """As it is now."""
        return self._api.get(f"{self.path}/{name}")

    def config(self) -> dict[str, Any]:
        """The docker config as it is now."""
        parsed: dict[str, Any] = json.loads(base64.b64decode(self.secret()["data"][kubelet.KEY]))
        return parsed

    def delete(self, name: str = "pull-secret") -> None:
        """Fine if it is gone."""
        self._api.delete(f"{self.path}/{name}")

    def refresh(self) -> None:
        """Ask for a new token, and return once it is there."""
        old = token(self.filled().secret, self.registry)
        self.annotate(refresh=secrets.token_hex(4))
        self.replaced(old)

    def recreate(self) -> None:
        """Delete the Secret and create another one of its name; returns once that is filled."""
        old = self.secret()["metadata"]["uid"]
        self.delete()
        self.create()
        filled = filled_for(self.identity, self.registry)
        self.wait(lambda secret: filled(secret) and secret["metadata"]["uid"] != old, timeout=FILL_SECONDS)

    def filled(
        self, identity: str | None = None, *, timeout: float = FILL_SECONDS, name: str = "pull-secret"
    ) -> Version:
        """The version that holds a valid token of `identity` (default: the tenant's), once there is one."""
        return self.wait(filled_for(identity or self.identity, self.registry), timeout=timeout, name=name)

    def replaced(self, old: str, *, timeout: float = FILL_SECONDS) -> Version:
        """The version that holds a valid token of the tenant's identity other than `old`."""
        filled = filled_for(self.identity, self.registry)
        return self.wait(lambda secret: filled(secret) and token(secret, self.registry) != old, timeout=timeout)

    def wait(self, condition: Callable[[Secret], bool], *, timeout: float, name: str = "pull-secret") -> Version:
        """The latest version once it fulfils the condition. Raises AssertionError."""
        return self._observer.wait(self.namespace, condition, timeout=timeout, name=name)

    def history(self, name: str = "pull-secret") -> list[Version]:
        """Every version that was seen."""
        return self._observer.history(self.namespace, name)

    def events(self, name: str = "pull-secret") -> list[dict[str, Any]]:
        """The Events about the Secret."""
        return self._cluster.events(self.namespace, name)

    def warned(self, reason: str, *, timeout: float = EVENT_SECONDS) -> dict[str, Any]:
        """The Event of this reason about the Secret, once it is there."""

        def look() -> dict[str, Any] | None:
            return next((event for event in self.events() if event["reason"] == reason), None)

        try:
            found = eventually(look, timeout=timeout, what=f"Event {reason} in {self.namespace}")
        except AssertionError as error:
            error.add_note(f"Events: {[event['reason'] for event in self.events()]}")
            error.add_note(f"annotations: {self.secret()['metadata'].get('annotations')}")
            raise
        assert found is not None
        return found

    def leave(self) -> None:
        """Delete the Secrets; and the namespace, where somebody finishes that."""
        for name in {"pull-secret", *self._names}:
            self.delete(name)
        if self._cluster.audit_log is None:
            self._api.delete(f"/api/v1/namespaces/{self.namespace}")
