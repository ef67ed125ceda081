"""The pull Secret as others see it: every version on a watch, and the credential that a kubelet would read."""

import base64
import json
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import jwt

from testing.api import Api
from testing.follower import Follower

PREFIX = "pull-secret-updater.chainguard.dev/"
NAME = "pull-secret"
REGISTRY = "cgr.dev"
KEY = ".dockerconfigjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """User and token for the registry. Instants are seconds since the epoch, from the token itself."""

    user: str
    token: str = field(repr=False)
    subject: str
    audience: str
    issued_at: float
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One state of the Secret."""

    seen_at: float
    """Seconds since the epoch, a moment after the API server stored it."""
    seen_at_monotonic: float
    """The same, for differences."""
    secret: dict[str, Any] = field(repr=False)
    credential: Credential | None

    @property
    def nature(self) -> tuple[str, ...]:
        """What never changes as long as it is the same Secret."""
        metadata = self.secret["metadata"]
        return metadata["uid"], metadata["creationTimestamp"], self.secret["type"]

    @property
    def identity(self) -> str | None:
        """The identity that the Secret asks for."""
        identity: str | None = self.secret["metadata"].get("annotations", {}).get(PREFIX + "identity")
        return identity


def read_credential(secret: dict[str, Any]) -> Credential | None:
    """The credential that a kubelet would use for the registry; None if there is no usable one."""
    try:
        entry = json.loads(base64.b64decode(secret["data"][KEY]))["auths"][REGISTRY]
        user, _, token = base64.b64decode(entry["auth"]).decode().partition(":")
        claims = jwt.decode(token, options={"verify_signature": False})
        return Credential(
            user=user,
            token=token,
            subject=claims["sub"],
            audience=claims["aud"],
            issued_at=claims["iat"],
            expires_at=claims["exp"],
        )
    except (LookupError, TypeError, ValueError, jwt.PyJWTError):
        return None


class SecretWatch:
    """A watch on the Secret `pull-secret` of one namespace, from before it exists."""

    def __init__(self, api: Api, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/secrets?fieldSelector=metadata.name%3D{NAME}"
        self._follower = Follower(api, path, self._add)
        self._versions: list[Version] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._follower.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._follower.__exit__(kind, error, trace)

    def versions(self) -> list[Version]:
        """All versions seen so far, oldest first."""
        with self._lock:
            return list(self._versions)

    def filled(self) -> list[Version]:
        """The first version with each token."""
        first: dict[str, Version] = {}
        for version in self.versions():
            if credential := version.credential:
                first.setdefault(credential.token, version)
        return list(first.values())

    def _add(self, secret: dict[str, Any], *, deleted: bool) -> None:
        if deleted:
            return
        now, monotonic = time.time(), time.monotonic()
        version = Version(seen_at=now, seen_at_monotonic=monotonic, secret=secret, credential=read_credential(secret))
        with self._lock:
            known = {one.secret["metadata"]["resourceVersion"] for one in self._versions}
            if secret["metadata"]["resourceVersion"] not in known:  # a new list repeats known versions
                self._versions.append(version)
