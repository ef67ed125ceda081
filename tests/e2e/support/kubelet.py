"""Reads a pull Secret as the kubelet does, and finds fault where the kubelet would.

By our own reader of docker configs, which tests/e2e/test_kubelet_rules.py holds against the kubelet's code.
"""

import base64
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import jwt

from controller.core import dockerconfig
from testing.api import Api

SECRET_TYPE = "kubernetes.io/dockerconfigjson"
KEY = ".dockerconfigjson"


class RejectedError(Exception):
    """The kubelet could not use this Secret."""


def credentials(secret: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """(user, password) by registry, with scheme, API version and trailing slash dropped. Raises RejectedError."""
    if secret.get("type") != SECRET_TYPE:
        raise RejectedError(f"type is {secret.get('type')}")
    try:
        config = dockerconfig.parse(base64.b64decode(secret["data"][KEY], validate=True))
    except (KeyError, ValueError) as error:
        raise RejectedError(f"not a docker config: {type(error).__name__}") from error
    if config.unreadable:
        raise RejectedError(f"unreadable: {', '.join(config.unreadable)}")
    return dockerconfig.credentials(config, config.hosts)


def claims(token: str) -> dict[str, Any]:
    """What a token says of itself; the issuer's own tests are where its signature is looked at."""
    decoded: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return decoded


@dataclass
class Checker:
    """Reads one Secret every 100 ms, from its first valid credential on, and notes each time it would not do.

    `faults` must stay empty. `tokens` are the distinct passwords in the order in which they came, and how much of its
    life each had left when its successor appeared.
    """

    api: Api
    namespace: str
    registry: str = "cgr.dev"
    faults: list[str] = field(default_factory=list)
    reads: int = 0
    tokens: list[str] = field(default_factory=list)
    uids: set[str] = field(default_factory=set)
    remaining: list[float] = field(default_factory=list)
    """Seconds that each token still had when the next one was first read."""
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name=f"checker-{self.namespace}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def wait_for_tokens(self, count: int, *, timeout: float) -> None:
        """Until `count` different tokens were seen; raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.tokens) >= count, timeout):
                raise TimeoutError(f"{len(self.tokens)} of {count} tokens after {timeout} s")

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            try:
                self._read()
            except Exception as error:
                self.faults.append(f"{time.time():.1f}: {error!r}")

    def _read(self) -> None:
        secret = self.api.get(f"/api/v1/namespaces/{self.namespace}/secrets/pull-secret")
        now = time.time()
        _, password = credentials(secret).get(self.registry, ("", ""))
        if not password and not self.tokens:
            return
        self.reads += 1
        self.uids.add(secret["metadata"]["uid"])
        if claims(password)["exp"] <= now:
            self.faults.append(f"{now:.1f}: expired")
        if password not in self.tokens:
            with self._changed:
                if self.tokens:
                    self.remaining.append(claims(self.tokens[-1])["exp"] - now)
                self.tokens.append(password)
                self._changed.notify_all()
