"""What a queue holds, for tests: the product asks only how many keys are due."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

from controller.core.queue import RefreshQueue

K = TypeVar("K", bound=Hashable)


def deadline(queue: RefreshQueue[K], key: K) -> float | None:
    """When the key is to be looked at; of one being processed, what was asked meanwhile."""
    if run := queue._running.get(key):
        return run.asked
    held = queue._waiting.get(key)
    return held[0] if held else None


def waiting(queue: RefreshQueue[K]) -> int:
    """How many keys have a deadline, due or not."""
    return len(queue._waiting)


def processing(queue: RefreshQueue[K]) -> int:
    """How many keys workers have."""
    return len(queue._running)
