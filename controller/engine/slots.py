"""Room for requests: a fixed number at once, not counting those whose answer is late."""

from __future__ import annotations

import asyncio

LATE_SECONDS = 1.0
"""A request without an answer for this long gives its slot back."""

LATE_PER_SLOT = 3
"""So many late requests per slot at most: an issuer that hangs has four times as many connections as slots."""


class Slots:
    """`count` requests at once, those aside that have had no answer for a second."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._late_allowed = LATE_PER_SLOT * count
        self._late = 0

    async def take(self, *, lends: bool) -> Slot:
        """Wait for a slot, first come, first served. One that `lends` is given back when its request is late."""
        await self._free.acquire()
        return Slot(self, lends=lends)

    def _lend(self) -> bool:
        if self._late >= self._late_allowed:
            return False
        self._late += 1
        self._free.release()
        return True

    def _give_back(self, *, lent: bool) -> None:
        if lent:
            self._late -= 1
        else:
            self._free.release()


class Slot:
    """One request's place; `release` has to follow."""

    def __init__(self, slots: Slots, *, lends: bool) -> None:
        self._slots = slots
        self._lent = False
        self._timer = asyncio.get_running_loop().call_later(LATE_SECONDS, self._lend) if lends else None

    def _lend(self) -> None:
        self._lent = self._slots._lend()  # noqa: SLF001 -- one thing in two classes

    def release(self) -> None:
        """The request is over."""
        if self._timer is not None:
            self._timer.cancel()
        self._slots._give_back(lent=self._lent)  # noqa: SLF001 -- see above
