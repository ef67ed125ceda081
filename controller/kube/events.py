"""Kubernetes Events about Secrets: told once, counted after that, and never in anybody's way.

`record` only notes; `run` sends. The same words about the same Secret are one Event with a count, written at most once
a minute. Memory and rate are bounded: what is above the rate is sent later, what is above the bound is dropped. An
Event that the API server doesn't take is logged and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cachetools
import msgspec
from structlog.typing import FilteringBoundLogger

from controller.core.errors import ApiError, Conflict, NotFound
from controller.core.model import ManagedSecret, Ref
from controller.kube.client import KubeClient

Kind = Literal["Normal", "Warning"]

REPEAT_SECONDS = 60.0
"""Between two writes of the same Event."""

REMEMBERED = 4096
COMPONENT = "pull-secret-updater"
BURST = 50
PER_SECOND = 10.0
_MAX_MESSAGE = 1024
_MAX_SECRET_NAME = 253 - len(".0123456789abcdef")


class _Key(NamedTuple):
    uid: str
    reason: str
    message: str


@dataclass(slots=True)
class _Series:
    """One Event and how often it happened."""

    ref: Ref
    kind: Kind
    resource_version: str
    name: str
    first_at: float
    last_at: float
    count: int = 0
    created: bool = False
    due: bool = False
    """It is in the heap, and only once."""
    not_before: float = 0.0
    """Loop time of the earliest next write."""


class EventRecorder:
    """See the module."""

    def __init__(
        self,
        *,
        client: KubeClient,
        now: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._client = client
        self._now = now
        self._log = log
        self._series: cachetools.LRUCache[_Key, _Series] = cachetools.LRUCache(REMEMBERED)
        self._heap: list[tuple[float, int, _Key]] = []
        """(earliest write in loop time, order, key); at most REMEMBERED. A key that `_series` lost is passed over."""
        self._order = itertools.count()
        self._added = asyncio.Event()
        self._sending = asyncio.Lock()
        self._tokens = _Bucket()

    def record(self, secret: ManagedSecret, *, kind: Kind, reason: str, message: str) -> None:
        """Note an Event about a Secret. Never raises, never waits."""
        key, now = _Key(secret.uid, reason, message), self._now()
        series = self._series.get(key)
        if series is None:
            name = _name(secret.ref, key, now)
            series = _Series(secret.ref, kind, secret.resource_version, name, first_at=now, last_at=now)
            self._series[key] = series
        series.count += 1
        series.last_at = now
        if series.due:
            return
        if len(self._heap) >= REMEMBERED:
            self._log.info("an Event is dropped, too many are waiting", reason=reason)
            return
        series.due = True
        heapq.heappush(self._heap, (series.not_before, next(self._order), key))
        self._added.set()

    async def run(self) -> None:
        """Send what is recorded, until cancelled."""
        while True:
            self._added.clear()
            if not self._heap:
                await self._added.wait()
            elif (seconds := self._heap[0][0] - _loop_time()) > 0:
                await self._added_within(seconds)
            else:
                await self._send_first()

    async def flush(self, seconds: float) -> None:
        """Send what may be sent now, for at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while self._is_due():
                    await self._send_first()
        except TimeoutError:
            self._log.info("not all Events were written in time", left=len(self._heap))

    def _is_due(self) -> bool:
        return bool(self._heap) and self._heap[0][0] <= _loop_time()

    async def _added_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._added.wait()

    async def _send_first(self) -> None:
        async with self._sending:
            await asyncio.sleep(self._tokens.wait_seconds(_loop_time()))
            if not self._is_due():  # both run and flush may have come here for it
                return
            _, _, key = heapq.heappop(self._heap)
            series = self._series.get(key)
            if series is None or not series.due:
                return
            self._tokens.take(_loop_time())
            series.due = False
            series.not_before = _loop_time() + REPEAT_SECONDS
            try:
                await self._write(key, series)
            except ApiError as error:
                self._log.info("an Event was not written", reason=key.reason, detail=str(error))

    async def _write(self, key: _Key, series: _Series) -> None:
        if series.created:
            repeat = {"count": series.count, "lastTimestamp": _timestamp(series.last_at)}
            try:
                await self._client.patch_event(series.ref.namespace, series.name, msgspec.json.encode(repeat))
                return
            except NotFound:  # the API server forgets Events after an hour
                series.created = False
        with contextlib.suppress(Conflict):  # it is there: the answer to an earlier try got lost
            await self._client.create_event(series.ref.namespace, msgspec.json.encode(self._event(key, series)))
        series.created = True

    def _event(self, key: _Key, series: _Series) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": series.ref.namespace, "name": series.name},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Secret",
                "namespace": series.ref.namespace,
                "name": series.ref.name,
                "uid": key.uid,
                "resourceVersion": series.resource_version,
            },
            "type": series.kind,
            "reason": key.reason,
            "message": key.message[:_MAX_MESSAGE],
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "firstTimestamp": _timestamp(series.first_at),
            "lastTimestamp": _timestamp(series.last_at),
            "count": series.count,
        }


class _Bucket:
    """BURST writes at once, PER_SECOND in the long run."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._seen_at = 0.0

    def wait_seconds(self, now: float) -> float:
        self._fill(now)
        return max(0.0, (1.0 - self._left) / PER_SECOND)

    def take(self, now: float) -> None:
        self._fill(now)
        self._left -= 1.0

    def _fill(self, now: float) -> None:
        self._left = min(float(BURST), self._left + (now - self._seen_at) * PER_SECOND)
        self._seen_at = now


def _name(ref: Ref, key: _Key, now: float) -> str:
    digest = hashlib.sha256("\0".join((*key, repr(now))).encode(errors="replace")).hexdigest()[:16]
    return f"{ref.name[:_MAX_SECRET_NAME].rstrip('.-')}.{digest}"


def _timestamp(instant: float) -> str:
    return dt.datetime.fromtimestamp(int(instant), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
