"""Whether the process is alive, and whether it may be relied on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

NOT_READY_SECONDS = 180.0
"""Without anything heard from the API server."""

NOT_LIVE_SECONDS = 90.0
"""Without the watch loop having read or tried. An API server that is down is tried on and on, and kills no Pod."""


class Watching(Protocol):
    """What is known of a reflector. Instants are wall-clock seconds."""

    @property
    def listed(self) -> bool:
        """Its first list is done, or was refused."""
        ...

    @property
    def refused(self) -> bool:
        """The API server's last answer was 403."""
        ...

    @property
    def last_progress(self) -> float:
        """When the API server was last heard."""
        ...

    @property
    def last_attempt(self) -> float:
        """When the loop last read or tried."""
        ...


class Health:
    """Judges the reflectors; the rest of the process lives or ends as a whole (one TaskGroup)."""

    def __init__(self, reflectors: Sequence[Watching], *, now: Callable[[], float]) -> None:
        self._reflectors = reflectors
        self._now = now

    def live(self) -> str | None:
        """None, or why the process must be restarted."""
        idle = self._now() - min(reflector.last_attempt for reflector in self._reflectors)
        return f"a watch loop has done nothing for {idle:.0f} s" if idle > NOT_LIVE_SECONDS else None

    def ready(self) -> str | None:
        """None, or why the process doesn't do its work yet, or any more."""
        if not all(reflector.listed for reflector in self._reflectors):
            return "the first list is not done"
        age = self.watch_age_seconds()
        return f"nothing heard from the API server for {age:.0f} s" if age > NOT_READY_SECONDS else None

    def refused(self) -> int:
        """How many watches the API server refuses; they are tried again, and the others go on."""
        return sum(reflector.refused for reflector in self._reflectors)

    def watch_age_seconds(self) -> float:
        """Since the API server was last heard, longest of all watches."""
        return max(0.0, self._now() - min(reflector.last_progress for reflector in self._reflectors))
