"""What waits, in one line per namespace: the namespaces in turn, and in each line the earliest first."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

_Line: TypeAlias = list[tuple[float, int, T]]
"""A heap of (not before, order, item)."""


class Turns(Generic[T]):
    """See the module. Holds `most` items, and a quarter of that for one namespace."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._order = itertools.count()
        self._lines: OrderedDict[str, _Line[T]] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    def push(self, namespace: str, item: T, *, not_before: float) -> bool:
        """Put an item into its line; False if there are too many already."""
        line = self._lines.get(namespace, [])
        if self._count >= self._most or len(line) >= self._most // 4:
            return False
        self._lines.setdefault(namespace, line)
        heapq.heappush(line, (not_before, next(self._order), item))
        self._count += 1
        return True

    def first_at(self) -> float | None:
        """When the next item may be taken; None if there is none."""
        return min((line[0][0] for line in self._lines.values()), default=None)

    def take(self, now: float) -> T | None:
        """The item whose turn it is; its namespace goes to the end. None if nothing may be taken yet."""
        namespace = next((name for name, line in self._lines.items() if line[0][0] <= now), None)
        if namespace is None:
            return None
        line = self._lines[namespace]
        item = heapq.heappop(line)[2]
        self._lines.move_to_end(namespace)
        if not line:
            del self._lines[namespace]
        self._count -= 1
        return item
