"""Writes to Secrets: one merge patch each, valid only for the version that was decided on.

A refused or failed write is remembered per claim until its inputs change, so that an API server that refuses is asked
in growing steps and not at every event. Where the API server may be the cause, by an outage or by missing RBAC, and not
this one Secret, nobody waits out the steps once that is over: one claim is tried every 5 s, and its success, or a watch
that is open again, wakes all the others.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

import cachetools
import msgspec
from structlog.typing import FilteringBoundLogger

from controller.core import projection
from controller.core.errors import Pace, Problem, Rejection
from controller.core.model import Key, View
from controller.core.policy import Policy
from controller.core.projection import ObservedSecret
from controller.core.schedule import Coverage, retry_at
from controller.core.store import older
from controller.kube.answers import read_last_manager
from controller.kube.client import FIELD_MANAGER, KubeClient
from controller.kube.errors import ApiError, Conflict, Forbidden, Invalid, NotFound

PROBE_SECONDS = 5.0
_PROBED_SECONDS = 1800.0
"""A claim that fails for longer than this is tried at its own pace alone, or when another one succeeds."""

_RECOVERY_SECONDS = 5.0
"""Claims are woken at most this often: one that is refused for its own sake must not follow the others' successes."""

_REMEMBERED = 10_000
_SETBACK_KEPT_SECONDS = 1800.0


class Outdated(Exception):
    """The Secret has changed since it was looked at, and the new version is known: look again."""


class NotWritten(Exception):
    """The API server did not accept a write. `rejection` says why; None for a failure that passes by itself."""

    def __init__(self, *, next_at: float | None, rejection: Rejection | None = None) -> None:
        super().__init__(rejection.text if rejection else "passing")
        self.next_at = next_at
        self.rejection = rejection


@dataclass(frozen=True, slots=True)
class _Setback:
    inputs: tuple[object, ...]
    version: str | None
    """The Secret's version, if any change of the Secret may help and not only one of its inputs."""
    shared: bool
    """Other claims may have failed for the same cause, so the success of one is a reason to try the others."""
    attempt: int
    since: float
    """The first failure in a row."""
    failed_at: float
    retry_at: float


class Writer:
    """All writes to Secrets go through here.

    `observe` gets every version that is read or written, `rolled_back` one that is read and older than what was known;
    `wake` is called for a claim that may be tried again.
    """

    def __init__(
        self,
        *,
        client: KubeClient,
        observe: Callable[[ObservedSecret], None],
        rolled_back: Callable[[ObservedSecret], None],
        wake: Callable[[Key], None],
        policy: Policy,
        now: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._client = client
        self._observe = observe
        self._rolled_back = rolled_back
        self._wake = wake
        self._policy = policy
        self._now = now
        self._log = log
        self._setbacks: cachetools.TLRUCache[Key, _Setback] = cachetools.TLRUCache(
            _REMEMBERED, ttu=lambda _key, setback, _now: setback.retry_at + _SETBACK_KEPT_SECONDS, timer=now
        )
        self._recovered_at = 0.0

    async def run(self) -> NoReturn:
        """Probe, until cancelled."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            self.probe()

    def probe(self) -> None:
        """Wake one of the claims that wait because of the API server: the one that was tried longest ago."""
        now = self._now()
        waiting = [key for key, setback in self._waiting(now).items() if now - setback.since < _PROBED_SECONDS]
        if waiting:
            self._release(min(waiting, key=lambda key: self._setbacks[key].failed_at), now)

    def recovered(self) -> None:
        """The API server is heard again, or allows what it refused: wake whoever waits for that.

        What is due comes out of the queue longest overdue first.
        """
        now = self._now()
        if self._recovered_at <= now < self._recovered_at + _RECOVERY_SECONDS:
            return
        self._recovered_at = now
        for key in self._waiting(now):
            self._release(key, now)

    def held_until(self, view: View) -> float | None:
        """Until when it must not be written: a write was refused, and nothing that could help has changed."""
        setback = self._setbacks.get(view.key)
        now = self._now()
        if setback is None or setback.inputs != view.inputs or not setback.failed_at <= now < setback.retry_at:
            return None
        return setback.retry_at if setback.version in (None, view.secret.resource_version) else None

    async def read(self, view: View) -> bytes:
        """The .dockerconfigjson of exactly that version. Raises Outdated, NotWritten."""
        try:
            raw = await self._client.get_secret(view.secret.ref)
        except ApiError as error:
            raise self._failure(view, error) from error
        observed = projection.project(raw)
        if observed.resource_version != view.secret.resource_version:
            self._take(observed, view)
            raise Outdated
        return projection.config_bytes(raw)

    async def last_other_writer(self, view: View) -> str:
        """The field manager that wrote the Secret last beside us; "" if that can't be told."""
        try:
            metadata = await self._client.get_secret_metadata(view.secret.ref)
            return read_last_manager(metadata, other_than=FIELD_MANAGER)
        except ApiError:
            return ""

    async def fill(self, view: View, changes: Mapping[str, str | None], content: bytes) -> None:
        """Write annotations and .dockerconfigjson. Raises Outdated, NotWritten."""
        data = {projection.DATA_KEY: base64.b64encode(content).decode()}
        reply = await self._patch(view, {"metadata": _metadata(view, changes), "data": data})
        setback = self._setbacks.pop(view.key, None)
        self._observe(projection.project_filled(reply, before=view.secret, content=content))
        if setback is not None and setback.shared:
            self.recovered()

    async def annotate(self, view: View, changes: Mapping[str, str | None]) -> None:
        """Write annotations alone. Raises Outdated, NotWritten."""
        reply = await self._patch(view, {"metadata": _metadata(view, changes)})
        self._observe(projection.project_annotated(reply, before=view.secret))

    def refuse(self, view: View, problem: Problem) -> NotWritten:
        """The error to raise when a write isn't even tried because the API server would never accept it."""
        return self._set_back(view, Pace.SLOW, rejection=Rejection(problem), version=view.secret.resource_version)

    async def _patch(self, view: View, patch: Mapping[str, object]) -> bytes:
        try:
            return await self._client.patch_secret(view.secret.ref, msgspec.json.encode(patch))
        except Conflict:
            await self._catch_up(view)
            raise Outdated from None
        except ApiError as error:
            raise self._failure(view, error) from error

    async def _catch_up(self, view: View) -> None:
        try:
            observed = projection.project(await self._client.get_secret(view.secret.ref))
        except ApiError as error:
            raise self._failure(view, error) from error
        if observed.resource_version == view.secret.resource_version:
            # The version isn't the reason, so somebody else answers 409, say a webhook: trying at once would never end.
            raise self._set_back(view, Pace.FAST)
        self._take(observed, view)

    def _take(self, observed: ObservedSecret, view: View) -> None:
        """Such a read is never older than anything known before it, unless etcd was restored from a backup."""
        if older(observed.resource_version, than=view.secret.resource_version):
            self._log.warning("a Secret is older than it was: the cluster was restored", **names(view.key))
            self._rolled_back(observed)
        else:
            self._observe(observed)

    def _failure(self, view: View, error: ApiError) -> NotWritten:
        match error:
            case NotFound():  # deleted, and the watch will say so; or not, and then it is tried again
                return self._set_back(view, Pace.FAST)
            case Forbidden() | Invalid():
                self._log.warning("the API server refused a request", **names(view.key), detail=str(error))
                shared = isinstance(error, Forbidden)  # by RBAC, as far as we can tell
                refused = Rejection(Problem.WRITE_REFUSED, (error.why,) if error.why else ())
                return self._set_back(view, Pace.SLOW, rejection=refused, shared=shared)
            case _:
                self._log.warning("a request to the API server failed", **names(view.key), detail=str(error))
                retry_after = error.retry_after_seconds
                return self._set_back(view, Pace.FAST, retry_after_seconds=retry_after, shared=retry_after is None)

    def _waiting(self, now: float) -> dict[Key, _Setback]:
        """The claims that wait because of the API server."""
        return {key: setback for key, setback in self._setbacks.items() if setback.shared and now < setback.retry_at}

    def _release(self, key: Key, now: float) -> None:
        """Let a claim try again now. If it fails, its steps go on where they were."""
        self._setbacks[key] = replace(self._setbacks[key], retry_at=now)
        self._wake(key)

    def _coverage(self, view: View, now: float) -> Coverage:
        expiry = self._policy.expiry(view.claim)
        return Coverage(expiry) if expiry is not None and now < expiry else Coverage(None)

    def _set_back(
        self,
        view: View,
        pace: Pace,
        *,
        rejection: Rejection | None = None,
        version: str | None = None,
        retry_after_seconds: float | None = None,
        shared: bool = False,
    ) -> NotWritten:
        before, now = self._setbacks.get(view.key), self._now()
        if before is not None and before.inputs != view.inputs:
            before = None
        attempt, since = (before.attempt + 1, before.since) if before else (1, now)
        at = retry_at(
            failed_at=now,
            attempt=attempt,
            pace=pace,
            spread_by=str(view.key),
            coverage=self._coverage(view, now),
            retry_after_seconds=retry_after_seconds,
        )
        if at is not None:
            self._setbacks[view.key] = _Setback(view.inputs, version, shared, attempt, since, now, at)
        return NotWritten(next_at=at, rejection=rejection)


def names(key: Key) -> dict[str, str]:
    """The log fields that identify a claim."""
    return {"namespace": key.namespace, "name": key.name, **({"claim": key.claim} if key.claim else {})}


def _metadata(view: View, changes: Mapping[str, str | None]) -> dict[str, object]:
    return {"resourceVersion": view.secret.resource_version, "annotations": changes}
