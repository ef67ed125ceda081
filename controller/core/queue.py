"""One deadline per key, and workers that get the keys that are due.

A key is absent, waiting or being processed. It is never processed twice at the same time and never has two deadlines,
so a change costs one run however many events report it, and the end of a run drops no deadline that was set meanwhile.
Keys that are due come out in turns (`turn` gives the turn of a key, for us its namespace), in each turn the longest
overdue first: a namespace with thousands of keys delays the others by one run.

Deadlines are seconds on the wall clock `now`. All decisions are synchronous; only `get` waits, never longer than
`MAX_SLEEP_SECONDS` before it looks at the clock again, so a step of the clock or a suspended machine is seen by then.
The dict is the truth: heaps are an index into it, and an entry that the dict no longer holds is stale and skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeAlias, TypeVar

K = TypeVar("K", bound=Hashable)

MAX_SLEEP_SECONDS = 10.0
_STALE_ALLOWED = 64

_Entry: TypeAlias = tuple[float, int, K]
"""(at, seq, key). `seq` is unique, so that equal deadlines keep the order they were set in and keys need no order."""


class QueueClosed(Exception):
    """No key will be handed out any more."""


class Due(NamedTuple, Generic[K]):
    """A key to process now, and since when it is due."""

    key: K
    at: float


@dataclass(slots=True)
class _Run:
    """Calls about a key while it is being processed."""

    asked: float | None = None
    """The deadline set last."""
    forgotten: bool = False
    """The key was forgotten, so the end of this run sets no deadline."""


class RefreshQueue(Generic[K]):
    """See the module. For one event loop; not for several threads."""

    def __init__(self, now: Callable[[], float], *, turn: Callable[[K], Hashable]) -> None:
        self._now = now
        self._turn = turn
        self._seq = itertools.count()

        # A key is in `_waiting`, in `_running` or in neither.
        self._waiting: dict[K, _Entry[K]] = {}
        self._running: dict[K, _Run] = {}

        # Every entry of `_waiting` is in one heap: in `_timers`, or, once its time has come, in that of its turn.
        # Beside them the heaps hold `_stale` entries, which outnumber the others by `_STALE_ALLOWED` at most.
        self._timers: list[_Entry[K]] = []
        self._turns: OrderedDict[Hashable, list[_Entry[K]]] = OrderedDict()
        self._stale = 0

        # One worker waits for the clock or for `_changed`; the other workers wait for its place.
        self._place = asyncio.Lock()
        self._changed = asyncio.Event()
        self._closed = False

    def schedule(self, key: K, at: float) -> None:
        """Make `at` the key's deadline, earlier or later than before; a past `at` means now.

        A key that is due and stays due keeps its place. For a key being processed the last call counts. Raises
        ValueError, and changes nothing, if `at` is not a finite number.
        """
        _check(at)
        if run := self._running.get(key):
            run.asked = at
            return
        held = self._waiting.get(key)
        if held is None or (held[0] != at and max(held[0], at) > self._now()):
            self._arm(key, at)

    def forget(self, key: K) -> None:
        """Drop the key's deadline. If it is being processed, the end of that run sets none."""
        if run := self._running.get(key):
            run.asked, run.forgotten = None, True
        elif self._waiting.pop(key, None):
            self._stale += 1
            self._compact()

    async def get(self) -> Due[K]:
        """Wait for a key to be due and take it; `done` has to follow. Raises QueueClosed once the queue is closed.

        Any number of workers may wait. A cancelled one has taken nothing, and the next takes its place.
        """
        async with self._place:
            while not self._closed:
                # Nothing is awaited between taking a key and returning it, so that no cancellation can lose it.
                if due := self._take():
                    return due
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._sleep_seconds()):
                        await self._changed.wait()
        raise QueueClosed

    def done(self, key: K, next_at: float | None) -> None:
        """End the run of a key: look again at `next_at` or at what was asked meanwhile, whichever is earlier.

        None means to wait for a change. Raises ValueError, and changes nothing, if the key is not being processed or
        `next_at` is not a finite number.
        """
        if next_at is not None:
            _check(next_at)
        if key not in self._running:
            raise ValueError(f"{key!r} is not being processed")
        run = self._running.pop(key)
        wanted = (run.asked, None if run.forgotten else next_at)
        at = min((at for at in wanted if at is not None), default=None)
        if at is not None:
            self._arm(key, at)

    def close(self) -> None:
        """Hand out no more keys and end every waiting `get`. What is being processed can still be `done`."""
        self._closed = True
        self._changed.set()

    def is_processing(self, key: K) -> bool:
        """Whether a worker has the key."""
        return key in self._running

    def depth(self) -> int:
        """How many keys are due and not taken."""
        now = self._now()
        return sum(at <= now for at, _, _ in self._waiting.values())

    def _arm(self, key: K, at: float) -> None:
        """Make `at` the deadline of a key that isn't being processed."""
        self._stale += key in self._waiting
        self._waiting[key] = entry = (at, next(self._seq), key)
        heapq.heappush(self._timers, entry)
        self._compact()
        self._changed.set()

    def _take(self) -> Due[K] | None:
        """Take the first key of the turn that waited longest; a turn with more keys goes to the end of the line."""
        now = self._now()
        while (entry := self._first(self._timers)) and entry[0] <= now:
            keys = self._turns.setdefault(self._turn(entry[2]), [])
            heapq.heappush(keys, heapq.heappop(self._timers))
        while self._turns:
            turn, keys = self._turns.popitem(last=False)
            entry = self._first(keys)
            if entry is None:
                continue
            if entry[0] > now:  # The clock was set back: none of them is due any more.
                self._timers.extend(keys)
                heapq.heapify(self._timers)
                continue
            at, _, key = heapq.heappop(keys)
            if keys:
                self._turns[turn] = keys
            del self._waiting[key]
            self._running[key] = _Run()
            self._compact()
            return Due(key, at)
        return None

    def _sleep_seconds(self) -> float | None:
        """How long no key can become due unless the clock is stepped; None if no key waits. Call only after `_take`."""
        first = self._first(self._timers)
        return min(first[0] - self._now(), MAX_SLEEP_SECONDS) if first else None

    def _first(self, heap: list[_Entry[K]]) -> _Entry[K] | None:
        """The earliest entry of a heap, after dropping stale ones before it."""
        while heap and self._waiting.get(heap[0][2]) is not heap[0]:
            heapq.heappop(heap)
            self._stale -= 1
        return heap[0] if heap else None

    def _compact(self) -> None:
        """Drop all stale entries once they are the majority: O(1) for each over time."""
        if self._stale <= len(self._waiting) + _STALE_ALLOWED:
            return
        for heap in (self._timers, *self._turns.values()):
            heap[:] = [entry for entry in heap if self._waiting.get(entry[2]) is entry]
            heapq.heapify(heap)
        self._stale = 0


def _check(at: float) -> None:
    if not math.isfinite(at):
        raise ValueError(f"a deadline must be a finite number of seconds, not {at}")
