"""Keeps list and watch going: whatever the API server does, what it knows arrives at the sink, late at worst.

A machine of three states. `Listing` reads every page, then hands them over at once; `Watching` hands over each event;
`Waiting` sleeps off a failure. The machine owns the resource version to go on from, and the back-off. Only a version
that is too old, not reached yet or of no use is answered by a new list; everything else goes on from the last version
seen. The numbers are those of client-go's reflector, except where a comment says why not.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, NoReturn, Protocol, get_args

import msgspec
from structlog.typing import FilteringBoundLogger

from controller.core.errors import ApiError, Forbidden, FutureVersion, Gone, Invalid, Unavailable
from controller.core.model import ManagedSecret, Ref
from controller.core.projection import Observed, project
from controller.core.store import newer
from controller.kube.backoff import Backoff
from controller.kube.client import PAGE_SECONDS, WATCH_ANSWER_SECONDS, KubeClient, Selector
from controller.kube.watchevents import Bookmark, Changed, Deleted, Failure, Unknown, read_event

RelistReason = Literal["start", "expired", "future_version", "rejected", "silent", "unreadable"]
RELIST_REASONS: tuple[RelistReason, ...] = get_args(RelistReason)
"""Why a list is read: to begin with; the last version seen was compacted away, is not reached yet, or was refused; a
watch from it brought nothing, not even a bookmark; an event after it can't be read."""

WATCH_SECONDS = (300, 600)
OVERTIME_SECONDS = 30.0
"""For a server that doesn't end a watch when it was asked to."""

SILENCE_SECONDS = 70.0
"""Bookmarks come once a minute, so a silence of 70 s is a dead connection. Without a watch cache for Secrets the server
sends none, so this holds only once one was seen."""

_SHORTEST_WATCH_SECONDS = 1.0


class Sink(Protocol):
    """Who is told."""

    def replaced(
        self,
        secrets: Sequence[ManagedSecret],
        *,
        covers: Callable[[Ref], bool],
        resource_version: str,
        rolled_back: bool,
    ) -> None:
        """A list was read to its end. Where `rolled_back`, versions may be lower than those known before."""
        ...

    def changed(self, observed: Observed) -> None:
        """A Secret was added or modified; it may have stopped asking for an identity."""
        ...

    def deleted(self, ref: Ref, resource_version: str) -> None:
        """A Secret was deleted, or left the selection."""
        ...


@dataclass(frozen=True, slots=True)
class Listing:
    """Read the whole list: as of `not_older_than` or later, or the very latest where that is None."""

    not_older_than: str | None
    resync: bool = False
    """The list is the truth even where its versions are lower: the last one known was compacted away or is unknown."""


@dataclass(frozen=True, slots=True)
class Watching:
    """Read the events after the last version seen."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Do nothing for `seconds`."""

    seconds: float
    then: Listing | Watching


State = Listing | Watching | Waiting


class _Silent(Unavailable):
    """The server neither said anything nor ended the watch in time."""


class _Unreadable(Unavailable):
    """The server said something that is no event."""


class Reflector:
    """See the module. `random` draws from [0, 1); `now` is the wall clock."""

    def __init__(
        self,
        *,
        client: KubeClient,
        selector: Selector,
        sink: Sink,
        now: Callable[[], float],
        random: Callable[[], float],
        on_relist: Callable[[str], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._client = client
        self._selector = selector
        self._sink = sink
        self._now = now
        self._random = random
        self._on_relist = on_relist
        self._log = log.bind(watched_namespace=selector.namespace, watched_name=selector.name)

        self._version: str | None = None
        """The last version seen; None before the first list. Only a list for the very latest can lower it."""
        self._listed = False
        self._refused = False
        self._brought = 0
        """Lines of the watch under way, or of the last one."""
        self._bookmarked = False
        """This server sends bookmarks."""
        self._unreadable_after: str | None = None
        """The version after which an event could not be read; the second time there, the list is read instead."""

        self._backoff = Backoff(random)
        self._busy_until = math.inf
        """When the step under way ends at the latest. In loop time: setting the clock must not look like a stall."""
        self._last_progress = now()

    @property
    def listed(self) -> bool:
        """The first list was read to its end, or refused."""
        return self._listed

    @property
    def refused(self) -> bool:
        """The API server's last answer was 403."""
        return self._refused

    @property
    def last_progress(self) -> float:
        """The instant of the last sign of life in the stream: a list's end, a watch's 200, an event, a bookmark."""
        return self._last_progress

    @property
    def last_attempt(self) -> float:
        """The last instant at which the machine was within the bounds of its step; now, unless it is dead or hangs."""
        return self._now() - max(0.0, self._loop_time() - self._busy_until)

    async def run(self) -> NoReturn:
        """Run until cancelled."""
        state: State = self._relist("start", None)
        try:
            while True:
                state = await self._step(state)
        finally:
            self._busy_until = self._loop_time()

    async def _step(self, state: State) -> State:
        match state:
            case Waiting(seconds, then):
                self._busy_until = self._loop_time() + seconds
                await asyncio.sleep(seconds)
                return then
            case Listing(not_older_than, resync):
                try:
                    await self._list(not_older_than, resync=resync)
                except ApiError as error:
                    return self._after_failed_list(error, resync=resync)
            case Watching():
                try:
                    await self._watch()
                except ApiError as error:
                    return self._after_failed_watch(error)
        return Watching()

    async def _list(self, not_older_than: str | None, *, resync: bool) -> None:
        secrets: list[ManagedSecret] = []
        continue_token: str | None = None
        while True:
            async with self._within(PAGE_SECONDS):
                page = await self._client.list_secrets(
                    self._selector, continue_token=continue_token, resource_version=not_older_than
                )
            secrets += self._asking(page.items)
            continue_token = page.continue_token
            if continue_token is None:
                break
        if not_older_than is not None and newer(not_older_than, page.resource_version):
            raise FutureVersion("list secrets: the list is older than was asked for")
        self._version = page.resource_version
        self._listed = True
        self._heard()
        self._sink.replaced(
            secrets, covers=self._selector.covers, resource_version=page.resource_version, rolled_back=resync
        )

    def _asking(self, items: Sequence[msgspec.Raw]) -> list[ManagedSecret]:
        """The Secrets of a page that ask for an identity; what is no Secret is left out, so that it harms no other."""
        found: list[ManagedSecret] = []
        for raw in items:
            try:
                observed = project(raw)
            except (ValueError, RecursionError) as error:
                self._log.error("an item of the list of Secrets can't be read", error=type(error).__name__)
                continue
            if observed.secret is not None:
                found.append(observed.secret)
        return found

    async def _watch(self) -> None:
        """Hand over events until the server ends the watch. Raises ApiError; also for an end within a second."""
        assert self._version is not None, "a watch follows a list"  # noqa: S101 -- the machine has no other way here
        first, last = WATCH_SECONDS
        timeout_seconds = first + int(self._random() * (last - first + 1))
        self._brought = 0
        self._busy_until = self._loop_time() + WATCH_ANSWER_SECONDS
        async with self._client.watch_secrets(
            self._selector, resource_version=self._version, timeout_seconds=timeout_seconds
        ) as lines:
            opened = self._loop_time()
            self._refused = False
            self._heard()
            while (line := await self._next(lines, opened + timeout_seconds + OVERTIME_SECONDS)) is not None:
                self._brought += 1
                self._heard()
                self._take(line)
        if self._loop_time() - opened < _SHORTEST_WATCH_SECONDS:
            raise Unavailable("watch secrets: ended at once")

    async def _next(self, lines: AsyncIterator[bytes], deadline: float) -> bytes | None:
        left = deadline - self._loop_time()
        async with self._within(min(left, SILENCE_SECONDS) if self._bookmarked else left):
            return await anext(lines, None)

    def _take(self, line: bytes) -> None:
        """Hand over one event. Raises ApiError for an ERROR event, and for what can't be read."""
        try:
            event = read_event(line)
        except (ValueError, RecursionError) as unreadable:
            raise _Unreadable(f"watch secrets: an event can't be read: {type(unreadable).__name__}") from unreadable
        match event:
            case Changed(observed):
                self._advance(observed.resource_version)
                self._sink.changed(observed)
            case Deleted(observed):
                self._advance(observed.resource_version)
                self._sink.deleted(observed.ref, observed.resource_version)
            case Bookmark(resource_version):
                self._bookmarked = True
                self._advance(resource_version)
            case Failure(error):
                raise error
            case Unknown():
                self._log.info("an event of an unknown type is passed over")

    def _advance(self, version: str) -> None:
        """Go on from `version`, but never backwards.

        The watch began at a version and not at "now", so that every event's version is one to go on from.
        """
        if self._version is None or newer(version, self._version):
            self._version = version

    def _after_failed_list(self, error: ApiError, *, resync: bool) -> State:
        if isinstance(error, Forbidden):
            self._refused = self._listed = True
            self._heard()
        seconds = self._wait_seconds(error)
        self._log.warning("the list of Secrets was not read", detail=str(error), retry_in_seconds=round(seconds, 1))
        return Waiting(seconds, Listing(None, resync or isinstance(error, Gone | FutureVersion)))

    def _after_failed_watch(self, error: ApiError) -> State:
        self._refused = isinstance(error, Forbidden)
        if self._refused:
            self._heard()
        if self._brought and not isinstance(error, _Unreadable):
            self._backoff.reset()
        seconds = self._wait_seconds(error)
        self._log.info("the watch broke off", detail=str(error), retry_in_seconds=round(seconds, 1))
        return Waiting(seconds, self._way_on(error))

    def _way_on(self, error: ApiError) -> Listing | Watching:
        match error:
            case Gone():
                return self._relist("expired", self._version)
            case FutureVersion():
                return self._relist("future_version", None)
            case Invalid():
                return self._relist("rejected", None)
            case _Silent() if self._bookmarked and not self._brought:
                # A watch from a version that isn't reached yet is answered 200, and silent until it is: so a cluster
                # restored from a backup looks like this. The list tells it apart.
                return self._relist("silent", self._version)
            case _Unreadable() if self._unreadable_after == self._version:
                return self._relist("unreadable", self._version)
            case _Unreadable():
                self._unreadable_after = self._version
        return Watching()

    def _relist(self, reason: RelistReason, not_older_than: str | None) -> Listing:
        self._on_relist(reason)
        self._log.info("the list of Secrets is read", reason=reason)
        return Listing(not_older_than, resync=reason in ("future_version", "rejected"))

    def _wait_seconds(self, error: ApiError) -> float:
        return self._backoff.seconds(self._loop_time(), retry_after_seconds=error.retry_after_seconds)

    @asynccontextmanager
    async def _within(self, seconds: float) -> AsyncIterator[None]:
        """Bound a wait for the server. Raises _Silent."""
        self._busy_until = self._loop_time() + seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise _Silent("the API server is silent") from error

    def _heard(self) -> None:
        self._last_progress = self._now()

    @staticmethod
    def _loop_time() -> float:
        return asyncio.get_running_loop().time()
