"""Time that only passes when nothing else is left to do, so that tests of hours take milliseconds and never race.

The loop's clock stands still while there is work and jumps to the next timer when there is none. Work in threads runs
in place and takes no time. When no timer is left either, nothing can ever happen again and the test fails at once.

The PyPI package looptime does this too; it is made for much more, and lets time run backwards between tests.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH_SECONDS = 1767323045.0
"""2026-01-02T03:04:05Z, what a clock on the wall shows when a test begins."""


class Stuck(Exception):
    """Every task waits for another, and no timer is set."""


class _JumpingSelector(selectors.DefaultSelector):
    """Moves `elapsed_seconds` where a selector would sleep."""

    elapsed_seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise Stuck("every task waits for another and no timer is set")
            self.elapsed_seconds += max(timeout, 0.0)
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at 0 and never sleeps."""

    def __init__(self) -> None:
        self._jumps = _JumpingSelector()
        super().__init__(self._jumps)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._jumps.elapsed_seconds

    def hold(self, seconds: float) -> None:
        """Let time pass as a computation does, which lets nothing else run."""
        self._jumps.elapsed_seconds += seconds

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run it here and now: a thread would take real time, and virtual time would run away meanwhile."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class Clock:
    """The wall clock: calling it gives seconds since the epoch. It moves with the loop and can be stepped."""

    def __init__(self) -> None:
        self._offset_seconds = 0.0

    def __call__(self) -> float:
        """Now. Outside a running loop, time stands still."""
        try:
            elapsed_seconds = asyncio.get_running_loop().time()
        except RuntimeError:
            elapsed_seconds = 0.0
        return EPOCH_SECONDS + self._offset_seconds + elapsed_seconds

    def step(self, seconds: float) -> None:
        """Set the clock forward, or back; timers that are running don't notice."""
        self._offset_seconds += seconds
