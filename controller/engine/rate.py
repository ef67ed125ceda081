"""How many requests may start per second."""

from __future__ import annotations

import math

_BURST_SECONDS = 2.0
_ROUNDING_SECONDS = 1e-6


class Rate:
    """A limit on starts per second: a virtual schedule (GCRA), so that waiting needs no task of its own.

    `burst_seconds` worth of requests may start at once, and one at least.
    """

    def __init__(self, per_second: float, *, burst_seconds: float = _BURST_SECONDS) -> None:
        self._interval_seconds = 1 / per_second
        self._burst_seconds = max(burst_seconds, self._interval_seconds)
        self._taken_until = -math.inf

    def reserve(self, now: float) -> float:
        """Reserve the next start; returns how many seconds to wait for it."""
        self._taken_until = max(self._taken_until, now - self._burst_seconds) + self._interval_seconds
        wait = self._taken_until - now
        return wait if wait > _ROUNDING_SECONDS else 0.0
