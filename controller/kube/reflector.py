"""Keeps list and watch going: whatever the API server does, every change reaches the sink, at worst late.

A machine of three states. `Listing` reads every page, then hands them over at once; `Watching` hands over each event;
`Waiting` waits after a failure. The machine owns the resource version to go on from, and the back-off. Only a version
that is too old, not reached yet or useless leads to a new list; after any other failure the watch goes on from the last
version seen. The numbers are those of client-go's reflector, except where a comment says why not.

However large the objects are, the list is read to its end, and one page at a time is in memory.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Generic, Literal, NoReturn, Protocol, TypeVar, get_args

import msgspec
from structlog.typing import FilteringBoundLogger

from controller.core.model import Ref
from controller.core.projection import Observed
from controller.core.store import newer, older
from controller.kube.answers import Page
from controller.kube.backoff import Backoff
from controller.kube.client import PAGE_SECONDS, WATCH_ANSWER_SECONDS, KubeClient, Selector
from controller.kube.errors import (
    ApiError,
    Forbidden,
    FutureVersion,
    Gone,
    Invalid,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from controller.kube.pagesize import PageSize
from controller.kube.watchevents import Bookmark, Deleted, Failure, Unknown, Upserted, WatchEvent, read_event

T = TypeVar("T")

RelistReason = Literal["start", "expired", "future_version", "rejected", "silent", "unreadable", "rolled_back"]
RELIST_REASONS: tuple[RelistReason, ...] = get_args(RelistReason)
"""Why a list is read: at the start; the last version seen was compacted away, is not reached yet, or was refused;
a watch from it brought nothing, not even a bookmark; an event after it can't be read; a read has shown that the cluster
was restored from a backup."""

WATCH_SECONDS = (300, 600)
OVERTIME_SECONDS = 30.0
"""For a server that doesn't end a watch in time."""

SILENCE_SECONDS = 70.0
"""Bookmarks come once a minute, so a silence of 70 s is a dead connection. Without a watch cache the server
sends none, so this holds only once one was seen."""

_ROLLBACK_SECONDS = 10.0
"""The list is read at most this often because the cluster was restored."""

_SHORTEST_WATCH_SECONDS = 1.0


class Sink(Protocol[T]):
    """Receives the changes."""

    def replaced(
        self,
        items: Sequence[T],
        *,
        covers: Callable[[Ref], bool],
        resource_version: str,
        rolled_back: bool,
    ) -> None:
        """A list was read to its end. Where `rolled_back`, versions may be lower than those known before."""
        ...

    def upserted(self, observed: Observed[T]) -> None:
        """An object was added or modified; one without an item may have had one before."""
        ...

    def deleted(self, ref: Ref, resource_version: str) -> None:
        """An object was deleted, or left the selection."""
        ...


@dataclass(frozen=True, slots=True)
class Listing:
    """Read the whole list: as of `not_older_than` or later; the very latest if that is None."""

    not_older_than: str | None
    resync: bool = False
    """The list is the truth even where its versions are lower: the last one known was compacted away or is unknown."""
    below: str | None = None
    """After a rollback: a list that isn't below this version comes from a cache that doesn't know of it."""


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
    """The server neither sent anything nor ended the watch in time."""


class _Unreadable(Unavailable):
    """The server sent something that is not an event."""


class Reflector(Generic[T]):
    """See the module. `project` makes of an object what the sink gets, or raises ValueError.

    `random` draws from [0, 1); `now` is the wall clock.
    Whoever holds `paging`, which all reflectors share, may have a page in memory. `on_recovery` is called when the API
    server responds again after a failure.
    """

    def __init__(
        self,
        *,
        client: KubeClient,
        selector: Selector,
        project: Callable[[msgspec.Raw], Observed[T]],
        sink: Sink[T],
        paging: asyncio.Lock,
        now: Callable[[], float],
        random: Callable[[], float],
        on_relist: Callable[[str], None],
        on_recovery: Callable[[], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._client = client
        self._selector = selector
        self._project = project
        self._sink = sink
        self._paging = paging
        self._now = now
        self._random = random
        self._on_relist = on_relist
        self._on_recovery = on_recovery
        self._log = log.bind(
            resource=selector.resource, watched_namespace=selector.namespace, watched_name=selector.name
        )

        self._version: str | None = None
        """The last version seen; None before the first list. Only a list for the very latest can lower it."""
        self._listed = asyncio.Event()
        self._refusal: str | None = None
        self._failed = False
        """Since the API server last responded as it should."""
        self._rolled_back = False
        """What the list has shown is out of date by a rollback, and the list must be read next."""
        self._rolled_back_at = -math.inf
        self._wait: asyncio.Timeout | None = None
        """The wait under way, if it may be cut short."""
        self._brought = 0
        """Lines received from the present watch, or from the last one."""
        self._bookmarked = False
        """This server sends bookmarks."""
        self._unreadable_after: str | None = None
        """The version after which an event could not be read; the second time there, the list is read instead."""

        self._page_size = PageSize()
        self._backoff = Backoff(random)
        self._busy_until = math.inf
        """When the step under way ends at the latest. In loop time: setting the clock must not look like a stall."""
        self._last_progress = now()

    @property
    def listed(self) -> bool:
        """The first list was read to its end, or refused."""
        return self._listed.is_set()

    async def wait_until_listed(self) -> None:
        """Return once that is so."""
        await self._listed.wait()

    @property
    def refusal(self) -> str | None:
        """Why the API server refuses this watch (403 or 401), by its last answer; None if it doesn't."""
        return self._refusal

    @property
    def last_progress(self) -> float:
        """The instant of the last sign of life in the stream: a list's end, a watch's 200, an event, a bookmark."""
        return self._last_progress

    @property
    def last_attempt(self) -> float:
        """The last instant at which the machine was within the bounds of its step; now, unless it is dead or hangs."""
        return self._now() - max(0.0, self._loop_time() - self._busy_until)

    def covers(self, ref: Ref) -> bool:
        """Whether an object of that name is watched."""
        return self._selector.covers(ref)

    def roll_back(self) -> None:
        """The cluster was restored from a backup: read the list now, and take it as the truth."""
        now = self._loop_time()
        if now - self._rolled_back_at < _ROLLBACK_SECONDS:
            return
        self._rolled_back, self._rolled_back_at = True, now
        if self._wait is not None:
            self._wait.reschedule(now)

    async def run(self) -> NoReturn:
        """Run until cancelled."""
        state: State = self._relist("start", None)
        try:
            while True:
                state = await self._step(state)
                if self._rolled_back:
                    self._rolled_back = False
                    state = self._relist("rolled_back", None)
        finally:
            self._busy_until = self._loop_time()

    async def _step(self, state: State) -> State:
        match state:
            case Waiting(seconds, then):
                with suppress(_Silent):
                    async with self._within(seconds, may_be_cut_short=True):
                        await asyncio.Event().wait()
                return then
            case Listing():
                try:
                    await self._list(state)
                except ApiError as error:
                    return self._after_failed_list(error, state)
            case Watching():
                try:
                    await self._watch()
                except ApiError as error:
                    return self._after_failed_watch(error)
        return Watching()

    async def _list(self, asked: Listing) -> None:
        items: list[T] = []
        continue_token: str | None = None
        while True:
            self._busy_until = math.inf  # who has the turn is within bounds of its own
            async with self._paging:
                page = await self._next_page(continue_token, asked.not_older_than)
                items += self._items(page.items)
                continue_token, version = page.continue_token, page.resource_version
                del page
            if continue_token is None:
                break
        if asked.not_older_than is not None and newer(asked.not_older_than, version):
            raise FutureVersion(f"list {self._selector.resource}: the list is older than was asked for")
        self._listed.set()
        self._responded()
        if asked.below is not None and not older(version, than=asked.below):
            self._log.warning("the API server's list is from before the cluster was restored; restart the API server")
            return
        self._version = version
        self._sink.replaced(items, covers=self._selector.covers, resource_version=version, rolled_back=asked.resync)

    async def _next_page(self, continue_token: str | None, not_older_than: str | None) -> Page:
        """As many objects as fit. One that doesn't even fit alone is passed over: it must not hold up the others."""
        while True:
            try:
                page = await self._page(continue_token, not_older_than)
                self._page_size.fitted(page.size)
                return page
            except TooLarge:
                if self._page_size.shrink():
                    continue
            page = await self._page(continue_token, not_older_than, metadata_only=True)
            for raw in page.items:
                namespace, name = self._project(raw).ref
                self._log.error("an object is too large to be read and is left out", namespace=namespace, name=name)
            return replace(page, items=[])

    async def _page(
        self, continue_token: str | None, not_older_than: str | None, *, metadata_only: bool = False
    ) -> Page:
        async with self._within(PAGE_SECONDS):
            return await self._client.list_page(
                self._selector,
                limit=self._page_size.limit,
                continue_token=continue_token,
                resource_version=not_older_than,
                metadata_only=metadata_only,
            )

    def _items(self, page: Sequence[msgspec.Raw]) -> list[T]:
        """What is kept of a page; an object that can't be read is left out and harms no other."""
        found: list[T] = []
        for raw in page:
            try:
                observed = self._project(raw)
            except (ValueError, RecursionError) as error:
                self._log.error("an item of the list can't be read and is left out", error=type(error).__name__)
                continue
            if observed.item is not None:
                found.append(observed.item)
        return found

    async def _watch(self) -> None:
        """Hand over events until the server ends the watch. Raises ApiError; also for an end within a second."""
        assert self._version is not None, "a watch follows a list"  # noqa: S101 -- no other state leads here
        first, last = WATCH_SECONDS
        timeout_seconds = first + int(self._random() * (last - first + 1))
        self._brought = 0
        self._busy_until = self._loop_time() + WATCH_ANSWER_SECONDS
        async with self._client.watch(
            self._selector, resource_version=self._version, timeout_seconds=timeout_seconds
        ) as lines:
            opened = self._loop_time()
            self._refusal = None
            self._responded()
            while (line := await self._next(lines, opened + timeout_seconds + OVERTIME_SECONDS)) is not None:
                self._brought += 1
                self._heard()
                self._take(line)
        if self._loop_time() - opened < _SHORTEST_WATCH_SECONDS:
            raise Unavailable(f"watch {self._selector.resource}: ended at once")

    async def _next(self, lines: AsyncIterator[bytes], deadline: float) -> bytes | None:
        left = deadline - self._loop_time()
        async with self._within(min(left, SILENCE_SECONDS) if self._bookmarked else left, may_be_cut_short=True):
            return await anext(lines, None)

    def _take(self, line: bytes) -> None:
        """Hand over one event. Raises ApiError for an ERROR event, and for what can't be read."""
        what = f"watch {self._selector.resource}"
        try:
            event: WatchEvent[T] = read_event(line, self._project, what=what)
        except (ValueError, RecursionError) as unreadable:
            raise _Unreadable(f"{what}: an event can't be read: {type(unreadable).__name__}") from unreadable
        match event:
            case Upserted(observed):
                self._advance(observed.resource_version)
                self._sink.upserted(observed)
            case Deleted(observed):
                self._advance(observed.resource_version)
                self._sink.deleted(observed.ref, observed.resource_version)
            case Bookmark(resource_version):
                self._bookmarked = True
                self._advance(resource_version)
            case Failure(error):
                raise error
            case Unknown():
                self._log.info("an event of an unknown type is ignored")

    def _advance(self, version: str) -> None:
        """Go on from `version`, but never backwards.

        The watch began at a version and not at "now", so that every event's version is one to go on from.
        """
        if self._version is None or newer(version, self._version):
            self._version = version

    def _after_failed_list(self, error: ApiError, asked: Listing) -> State:
        self._note_refusal(error)
        if isinstance(error, Forbidden):
            self._listed.set()
        seconds = self._wait_seconds(error)
        self._log.warning("the list failed", detail=str(error), retry_in_seconds=round(seconds, 1))
        resync = asked.resync or isinstance(error, Gone | FutureVersion)
        return Waiting(seconds, replace(asked, not_older_than=None, resync=resync))

    def _after_failed_watch(self, error: ApiError) -> State:
        self._note_refusal(error)
        if self._brought and not isinstance(error, _Unreadable | TooLarge):
            self._backoff.reset()
        seconds = self._wait_seconds(error)
        self._log.info("the watch was interrupted", detail=str(error), retry_in_seconds=round(seconds, 1))
        return Waiting(seconds, self._way_on(error))

    def _note_refusal(self, error: ApiError) -> None:
        """Keep why it is refused. Any other failure tells nothing of that, so it leaves what is known."""
        if isinstance(error, Forbidden | Unauthorized):
            self._refusal = f"{error}; asked for {self._selector}"
        if isinstance(error, Forbidden):
            self._heard()

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
            case _Unreadable() | TooLarge() if self._unreadable_after == self._version:
                return self._relist("unreadable", self._version)
            case _Unreadable() | TooLarge():
                self._unreadable_after = self._version
        return Watching()

    def _relist(self, reason: RelistReason, not_older_than: str | None) -> Listing:
        self._on_relist(reason)
        self._log.info("listing", reason=reason)
        resync = reason in ("future_version", "rejected", "rolled_back")
        return Listing(not_older_than, resync, self._version if reason == "rolled_back" else None)

    def _wait_seconds(self, error: ApiError) -> float:
        self._failed = True
        return self._backoff.seconds(self._loop_time(), retry_after_seconds=error.retry_after_seconds)

    @asynccontextmanager
    async def _within(self, seconds: float, *, may_be_cut_short: bool = False) -> AsyncIterator[None]:
        """Bound a wait for the server. Raises _Silent."""
        self._busy_until = self._loop_time() + seconds
        try:
            async with asyncio.timeout(seconds) as wait:
                self._wait = wait if may_be_cut_short else None
                yield
        except TimeoutError as error:
            raise _Silent("no response from the API server") from error
        finally:
            self._wait = None

    def _responded(self) -> None:
        """The API server has done what it was asked for."""
        self._heard()
        if self._failed:
            self._failed = False
            self._on_recovery()

    def _heard(self) -> None:
        self._last_progress = self._now()

    @staticmethod
    def _loop_time() -> float:
        return asyncio.get_running_loop().time()
