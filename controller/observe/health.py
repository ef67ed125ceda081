"""Liveness and readiness."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

NOT_READY_SECONDS = 180.0
"""Without a response from the API server."""

NOT_LIVE_SECONDS = 90.0
"""Without the watch loop reading or trying. An API server that is down is tried again and again, and kills no Pod."""


class Watch(Protocol):
    """A reflector, as health sees it. Instants are wall-clock seconds."""

    @property
    def listed(self) -> bool:
        """Its first list is done, or was refused."""
        ...

    @property
    def refusal(self) -> str | None:
        """Why the API server refuses it; None if it doesn't."""
        ...

    @property
    def last_progress(self) -> float:
        """When the API server last responded."""
        ...

    @property
    def last_attempt(self) -> float:
        """When the loop last read or tried."""
        ...


class Health:
    """Checks the reflectors; the rest of the process lives or ends as a whole (one TaskGroup)."""

    def __init__(
        self,
        reflectors: Sequence[Watch],
        *,
        others: Sequence[Watch] = (),
        unproven: Callable[[], str | None],
        now: Callable[[], float],
    ) -> None:
        self._reflectors = reflectors
        self._others = others
        """Watches without which every Secret that is there is still kept."""
        self._unproven = unproven
        """Why an issuer would not know us, before each provider's proof was read once; None from then on."""
        self._now = now

    def live(self) -> str | None:
        """None, or why the process must be restarted."""
        idle = self._now() - min(reflector.last_attempt for reflector in self._all())
        return f"a watch loop has done nothing for {idle:.0f} s" if idle > NOT_LIVE_SECONDS else None

    def ready(self) -> str | None:
        """None, or why the process isn't doing its work, yet or any more.

        One watch that is refused among others is a metric; where all are, no Secret can be filled, and a rollout must
        not take the Pod away that still can.
        """
        refusals = [reflector.refusal for reflector in self._reflectors]
        if all(refusals):
            return f"the API server refuses every watch: {refusals[0]}"
        if not all(reflector.listed for reflector in self._reflectors):
            return "the first list of Secrets is not done"
        if unproven := self._unproven():
            return unproven
        age = self.watch_age_seconds()
        return f"no response from the API server for {age:.0f} s" if age > NOT_READY_SECONDS else None

    def refused(self) -> int:
        """How many watches the API server refuses; they are retried, and the others go on."""
        return sum(reflector.refusal is not None for reflector in self._all())

    def watch_age_seconds(self) -> float:
        """Seconds since the API server last responded, longest of all watches."""
        return max(0.0, self._now() - min(reflector.last_progress for reflector in self._all()))

    def _all(self) -> Iterator[Watch]:
        return itertools.chain(self._reflectors, self._others)
