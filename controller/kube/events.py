"""Kubernetes Events: written once, counted after that, and never in the way of a refresh.

`record` only queues; `run` sends. The same words about the same Secret are one Event with a count, written at most once
a minute. Whatever happens to however many Secrets, 50 Events are written at once and then one a second: warnings before
news, and namespaces in turn, so that nobody waits for another's thousands. While news has to wait, a namespace's news
of one kind is one Event that says how many more there are, and after a minute it is dropped. Memory is bounded, and
what is left out is counted. An Event that the API server refuses is logged and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import cachetools
import msgspec
from structlog.typing import FilteringBoundLogger

from controller.core.model import ManagedSecret, Ref
from controller.core.targets import Account, Stranger
from controller.kube.client import KubeClient
from controller.kube.errors import ApiError, Conflict, NotFound
from controller.kube.turns import Turns

Kind = Literal["Normal", "Warning"]
Result = Literal["written", "merged", "dropped", "failed"]
"""An Event was written; or what was recorded is a number in the Event about another Secret of its namespace; or nothing
is told of it, since too much waited for too long, or since the API server refused the Event."""

REPEAT_SECONDS = 60.0
"""Between two writes of the same Event."""

REMEMBERED = 4096
COMPONENT = "pull-secret-updater"
BURST = 50
PER_SECOND = 1.0
NEWS_SECONDS = 60.0
"""News that could not be written for so long is dropped: the Secret itself says the same."""
_MAX_MESSAGE = 1024
_MAX_SECRET_NAME = 253 - len(".0123456789abcdef")


Subject: TypeAlias = ManagedSecret | Stranger | Account
"""What an Event is about."""


class _Key(NamedTuple):
    subject: str
    """UID; namespace and name of what isn't there."""
    reason: str
    message: str


@dataclass(slots=True)
class _Series:
    """One Event and how often it happened."""

    ref: Ref
    object_kind: str
    uid: str
    resource_version: str
    kind: Kind
    name: str
    first_at: float
    last_at: float
    count: int = 0
    created: bool = False
    due: bool = False
    """It waits, and only once."""
    since: float = 0.0
    """Loop time at which it became due."""
    not_before: float = 0.0
    """Loop time of the earliest next write."""
    others: int = 0
    """Further Secrets of the namespace with the same news, since the last write."""


_Waiting: TypeAlias = Turns[tuple[_Key, _Series]]


class EventRecorder:
    """See the module."""

    def __init__(
        self,
        *,
        client: KubeClient,
        now: Callable[[], float],
        count: Callable[[Result], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._client = client
        self._now = now
        self._count = count
        self._log = log
        self._series: cachetools.LRUCache[_Key, _Series] = cachetools.LRUCache(REMEMBERED)
        self._waiting: dict[Kind, _Waiting] = {"Warning": Turns(REMEMBERED), "Normal": Turns(REMEMBERED)}
        """The more urgent kind first."""
        self._waiting_news: dict[tuple[str, str], _Series] = {}
        """By namespace and reason: the news that waits, and that others of its kind are counted with."""
        self._added = asyncio.Event()
        self._sending = asyncio.Lock()
        self._tokens = _Bucket()

    def record(self, subject: Subject, *, kind: Kind, reason: str, message: str) -> None:
        """Queue an Event. Never raises, never waits."""
        key, now = _Key(subject.uid or "/".join(subject.ref), reason, message), self._now()
        series = self._series.get(key)
        if series is None:
            name = _name(subject.ref, key, now)
            object_kind = "ServiceAccount" if isinstance(subject, Account) else "Secret"
            series = _Series(
                subject.ref,
                object_kind,
                subject.uid,
                subject.resource_version,
                kind,
                name,
                first_at=now,
                last_at=now,
            )
            self._series[key] = series
        series.count += 1
        series.last_at = now
        if not series.due and not self._merges(series, reason):
            self._queue(key, series)

    def _merges(self, series: _Series, reason: str) -> bool:
        """Whether it is counted with other news of its namespace that waits already."""
        if series.kind == "Warning" or sum(map(len, self._waiting.values())) < self._tokens.left(_loop_time()):
            return False
        waiting = self._waiting_news.get((series.ref.namespace, reason))
        if waiting is None:
            return False
        waiting.others += 1
        self._count("merged")
        return True

    def _queue(self, key: _Key, series: _Series) -> None:
        waiting = self._waiting[series.kind]
        if not waiting.push(series.ref.namespace, (key, series), not_before=series.not_before):
            self._count("dropped")
            return
        series.due, series.since = True, max(series.not_before, _loop_time())
        if series.kind == "Normal":
            self._waiting_news[series.ref.namespace, key.reason] = series
        self._added.set()

    async def run(self) -> None:
        """Send queued Events, until cancelled."""
        while True:
            self._added.clear()
            first = min((at for each in self._waiting.values() if (at := each.first_at()) is not None), default=None)
            if first is None:
                await self._added.wait()
            elif (seconds := first - _loop_time()) > 0:
                await self._added_within(seconds)
            else:
                await self._send_first()

    async def flush(self, seconds: float) -> None:
        """Send the Events that may be sent now, for at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while any(self._is_due(each) for each in self._waiting.values()):
                    await self._send_first()
                async with self._sending:  # what run() is writing just now
                    pass
        except TimeoutError:
            self._log.info("not all Events were written in time", left=sum(map(len, self._waiting.values())))

    @staticmethod
    def _is_due(waiting: _Waiting) -> bool:
        at = waiting.first_at()
        return at is not None and at <= _loop_time()

    async def _added_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._added.wait()

    async def _send_first(self) -> None:
        async with self._sending:
            await asyncio.sleep(self._tokens.wait_seconds(_loop_time()))
            now = _loop_time()
            taken = next((item for each in self._waiting.values() if (item := each.take(now)) is not None), None)
            if taken is None:  # run and flush both come here
                return
            key, series = taken
            series.due = False
            self._waiting_news.pop((series.ref.namespace, key.reason), None)
            if series.kind == "Normal" and _loop_time() - series.since > NEWS_SECONDS:
                self._count("dropped")
                return
            self._tokens.take(_loop_time())
            series.not_before = _loop_time() + REPEAT_SECONDS
            try:
                await self._write(key, series)
                self._count("written")
            except ApiError as error:
                self._count("failed")
                self._log.info("an Event was not written", reason=key.reason, detail=str(error))
            series.others = 0

    async def _write(self, key: _Key, series: _Series) -> None:
        if series.created:
            repeat = {"count": series.count, "lastTimestamp": _timestamp(series.last_at)}
            try:
                await self._client.patch_event(series.ref.namespace, series.name, msgspec.json.encode(repeat))
                return
            except NotFound:  # the API server forgets Events after an hour
                series.created = False
        with contextlib.suppress(Conflict):  # it exists: the answer to an earlier try got lost
            await self._client.create_event(series.ref.namespace, msgspec.json.encode(self._event(key, series)))
        series.created = True

    def _event(self, key: _Key, series: _Series) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": series.ref.namespace, "name": series.name},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": series.object_kind,
                "namespace": series.ref.namespace,
                "name": series.ref.name,
                "uid": series.uid,
                "resourceVersion": series.resource_version,
            },
            "type": series.kind,
            "reason": key.reason,
            "message": _message(key.message, series.others),
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

    def left(self, now: float) -> float:
        self._fill(now)
        return self._left

    def wait_seconds(self, now: float) -> float:
        return max(0.0, (1.0 - self.left(now)) / PER_SECOND)

    def take(self, now: float) -> None:
        self._fill(now)
        self._left -= 1.0

    def _fill(self, now: float) -> None:
        self._left = min(float(BURST), self._left + (now - self._seen_at) * PER_SECOND)
        self._seen_at = now


def _name(ref: Ref, key: _Key, now: float) -> str:
    digest = hashlib.sha256("\0".join((*key, repr(now))).encode(errors="replace")).hexdigest()[:16]
    return f"{ref.name[:_MAX_SECRET_NAME].rstrip('.-')}.{digest}"


def _message(text: str, others: int) -> str:
    more = f" (the same is true of {others} more Secrets in this namespace)" if others else ""
    return text[: _MAX_MESSAGE - len(more)] + more


def _timestamp(instant: float) -> str:
    return dt.datetime.fromtimestamp(int(instant), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
