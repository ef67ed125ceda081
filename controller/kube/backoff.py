"""How long to wait after a failure: longer each time, at random, and short again after a time without failures."""

from __future__ import annotations

from collections.abc import Callable

from controller.core.schedule import RETRY_AFTER_CAP_SECONDS

FIRST_STEP_SECONDS = 0.8
LAST_STEP_SECONDS = 15.0
"""client-go has 30 s here. A wait is one to two steps long, so ours is spread at the cap too, and at most 30 s."""

CALM_SECONDS = 120.0
"""After this long without a failure, the next one counts as the first again."""


class Backoff:
    """`random` draws from [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0
        self._calm_since = 0.0

    def seconds(self, now: float, *, retry_after_seconds: float | None) -> float:
        """The wait after a failure at `now`; at least as long as the server asked for, up to 300 s."""
        if now - self._calm_since >= CALM_SECONDS:
            self._failures = 0
        step = min(FIRST_STEP_SECONDS * 2.0 ** min(self._failures, 10), LAST_STEP_SECONDS)
        wait = step * (1.0 + self._random())
        if retry_after_seconds is not None:
            wait = max(wait, min(retry_after_seconds, RETRY_AFTER_CAP_SECONDS))
        self._failures += 1
        self._calm_since = now + wait
        return wait

    def reset(self) -> None:
        """The next failure is the first again."""
        self._failures = 0
