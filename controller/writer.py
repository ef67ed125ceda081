"""Writes to Secrets: one merge patch each, conditional on the version that was decided on, and what refused it before.

A refused or failed write is remembered per claim until its inputs change, so that a cluster that says no is asked in
growing steps and not at every event.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import cachetools
import msgspec
from structlog.typing import FilteringBoundLogger

from controller.core import projection
from controller.core.errors import ApiError, Conflict, Forbidden, Invalid, NotFound, Pace, Problem
from controller.core.model import Key, Ref, View
from controller.core.policy import Policy
from controller.core.projection import Observed
from controller.core.schedule import retry_at

_REMEMBERED = 10_000
_SETBACK_KEPT_SECONDS = 1800.0


class Changed(Exception):
    """The Secret changed under our hands, and what it is now is known: look again."""


class NotWritten(Exception):
    """The API server did not take it. `problem` is what to tell a person; None where it passes by itself."""

    def __init__(self, *, next_at: float | None, problem: Problem | None = None) -> None:
        super().__init__(problem.reason if problem else "passing")
        self.next_at = next_at
        self.problem = problem


class SecretClient(Protocol):
    """The part of the API client that is used here. Both raise ApiError."""

    async def get_secret(self, ref: Ref) -> bytes:
        """The Secret's JSON."""
        ...

    async def patch_secret(self, ref: Ref, patch: bytes) -> bytes:
        """Send a merge patch (RFC 7396); answers with the JSON of the new metadata alone."""
        ...


@dataclass(frozen=True, slots=True)
class _Setback:
    inputs: tuple[object, ...]
    version: str | None
    """Of the Secret, where any change of it may help and not only one of its inputs."""
    attempt: int
    failed_at: float
    retry_at: float


class Writer:
    """The only way that a Secret is written. `observe` is told of every version that is read or written."""

    def __init__(
        self,
        *,
        client: SecretClient,
        observe: Callable[[Observed], None],
        policy: Policy,
        now: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._client = client
        self._observe = observe
        self._policy = policy
        self._now = now
        self._log = log
        self._setbacks: cachetools.TLRUCache[Key, _Setback] = cachetools.TLRUCache(
            _REMEMBERED, ttu=lambda _key, setback, _now: setback.retry_at + _SETBACK_KEPT_SECONDS, timer=now
        )

    def held_until(self, view: View) -> float | None:
        """Before when the claim must not be written, since it was refused and nothing that could help has changed."""
        setback = self._setbacks.get(view.key)
        now = self._now()
        if setback is None or setback.inputs != view.inputs or not setback.failed_at <= now < setback.retry_at:
            return None
        return setback.retry_at if setback.version in (None, view.secret.resource_version) else None

    async def read(self, view: View) -> bytes:
        """The present .dockerconfigjson of that very version. Raises Changed, NotWritten."""
        try:
            raw = await self._client.get_secret(view.secret.ref)
        except ApiError as error:
            raise self._failure(view, error) from error
        observed = projection.project(raw)
        if observed.resource_version != view.secret.resource_version:
            self._observe(observed)
            raise Changed
        return projection.config_bytes(raw)

    async def fill(self, view: View, changes: Mapping[str, str | None], content: bytes) -> None:
        """Write annotations and .dockerconfigjson. Raises Changed, NotWritten."""
        data = {projection.DATA_KEY: base64.b64encode(content).decode()}
        reply = await self._patch(view, {"metadata": _metadata(view, changes), "data": data})
        self._setbacks.pop(view.key, None)
        self._observe(projection.project_filled(reply, before=view.secret, content=content))

    async def annotate(self, view: View, changes: Mapping[str, str | None]) -> None:
        """Write annotations alone. Raises Changed, NotWritten."""
        reply = await self._patch(view, {"metadata": _metadata(view, changes)})
        self._observe(projection.project_annotated(reply, before=view.secret))

    def refuse(self, view: View, problem: Problem) -> NotWritten:
        """What to raise when a write isn't even tried: it would never pass."""
        return self._set_back(view, Pace.SLOW, problem=problem, version=view.secret.resource_version)

    async def _patch(self, view: View, patch: Mapping[str, object]) -> bytes:
        try:
            return await self._client.patch_secret(view.secret.ref, msgspec.json.encode(patch))
        except Conflict:
            await self._catch_up(view)
            raise Changed from None
        except ApiError as error:
            raise self._failure(view, error) from error

    async def _catch_up(self, view: View) -> None:
        try:
            observed = projection.project(await self._client.get_secret(view.secret.ref))
        except ApiError as error:
            raise self._failure(view, error) from error
        if observed.resource_version == view.secret.resource_version:
            # Not about the version, then, but say a webhook's; at once again would be for ever.
            raise self._set_back(view, Pace.FAST)
        self._observe(observed)

    def _failure(self, view: View, error: ApiError) -> NotWritten:
        match error:
            case NotFound():  # a deletion, of which the watch will tell and then forget the claim; or it is none
                return self._set_back(view, Pace.FAST)
            case Forbidden() | Invalid():
                self._log.warning("the API server refused a request", **names(view.key), detail=str(error))
                return self._set_back(view, Pace.SLOW, problem=Problem.WRITE_REFUSED)
            case _:
                self._log.warning("a request to the API server failed", **names(view.key), detail=str(error))
                return self._set_back(view, Pace.FAST, retry_after_seconds=error.retry_after_seconds)

    def _set_back(
        self,
        view: View,
        pace: Pace,
        *,
        problem: Problem | None = None,
        version: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> NotWritten:
        before, now = self._setbacks.get(view.key), self._now()
        attempt = before.attempt + 1 if before and before.inputs == view.inputs else 1
        at = retry_at(
            failed_at=now,
            attempt=attempt,
            pace=pace,
            spread_by=str(view.key),
            valid_until=self._policy.expiry(view.claim),
            retry_after_seconds=retry_after_seconds,
        )
        if at is not None:
            self._setbacks[view.key] = _Setback(view.inputs, version, attempt, now, at)
        return NotWritten(next_at=at, problem=problem)


def names(key: Key) -> dict[str, str]:
    """The log fields that say which claim."""
    return {"namespace": key.namespace, "name": key.name, **({"claim": key.claim} if key.claim else {})}


def _metadata(view: View, changes: Mapping[str, str | None]) -> dict[str, object]:
    return {"resourceVersion": view.secret.resource_version, "annotations": changes}
