"""Sees every version of every pull Secret as it appears, so that tests wait for facts and never for the clock."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from testing.api import Api
from testing.follower import Follower

Secret = dict[str, Any]
SELECTOR = "fieldSelector=type%3Dkubernetes.io%2Fdockerconfigjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One state of one Secret; `secret` is the last one before a deletion where `deleted`."""

    at: float
    """When it was seen: seconds since the epoch, a few milliseconds after the write."""
    secret: Secret
    deleted: bool

    @property
    def number(self) -> int:
        """The resourceVersion: a total order over the writes of the whole cluster."""
        return int(self.secret["metadata"]["resourceVersion"])


class Observer:
    """A watch of its own over all Secrets of type dockerconfigjson. `history` grows, oldest first."""

    def __init__(self, api: Api) -> None:
        self._follower = Follower(api, f"/api/v1/secrets?{SELECTOR}", self._add)
        self._versions: dict[tuple[str, str], list[Version]] = {}
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self._follower.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._follower.__exit__(kind, error, trace)

    def history(self, namespace: str, name: str = "pull-secret") -> list[Version]:
        """Every version of one Secret that was seen."""
        with self._changed:
            return list(self._versions.get((namespace, name), []))

    def secrets(self) -> list[Secret]:
        """Every version of every Secret of the tests that was seen."""
        with self._changed:
            ours = [versions for (namespace, _), versions in self._versions.items() if namespace.startswith("e2e-")]
            return [version.secret for versions in ours for version in versions]

    def wait(
        self, namespace: str, condition: Callable[[Secret], bool], *, timeout: float, name: str = "pull-secret"
    ) -> Version:
        """The latest version once it fulfils the condition. Raises AssertionError after `timeout` seconds."""

        def latest() -> Version | None:
            versions = self._versions.get((namespace, name))
            return versions[-1] if versions and not versions[-1].deleted and condition(versions[-1].secret) else None

        with self._changed:
            found = self._changed.wait_for(latest, timeout)
            assert found is not None, (
                f"{namespace}/{name} after {timeout} s: {_shown(self._versions.get((namespace, name), []))}"
            )
            return found

    def _add(self, secret: Secret, *, deleted: bool) -> None:
        version = Version(at=time.time(), secret=secret, deleted=deleted)
        with self._changed:
            known = self._versions.setdefault((secret["metadata"]["namespace"], secret["metadata"]["name"]), [])
            if not known or known[-1].number < version.number:  # a new list repeats what is known
                known.append(version)
                self._changed.notify_all()


def _shown(versions: list[Version]) -> list[dict[str, str]]:
    """What a failed wait may print: annotations, never data."""
    return [version.secret["metadata"].get("annotations", {}) for version in versions[-3:]]
