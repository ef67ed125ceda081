"""Shows on stderr what a long command is doing; stdout is for its result."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console

QUIET_SECONDS = 15
"""Between two lines of progress if stderr is not a terminal: often enough to show in a CI log that it is working."""


class Progress:
    """`step` prints a line that stays; `tick` redraws one on a terminal, and prints one now and then elsewhere."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._status = self._console.status("")
        self._printed_at = time.monotonic()

    def __enter__(self) -> Self:
        """Use as a context manager, so that the redrawn line disappears at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the redrawn line."""
        self._status.stop()

    def step(self, sentence: str) -> None:
        """Say that something began or ended."""
        self._status.stop()
        self._console.print(sentence, markup=False)
        self._printed_at = time.monotonic()

    def tick(self, sentence: str) -> None:
        """Say that something is still going on."""
        if sys.stderr.isatty():
            self._status.update(sentence)
            self._status.start()
        elif time.monotonic() - self._printed_at >= QUIET_SECONDS:
            self.step(sentence)
