"""Tells a person on stderr what a long command is doing; stdout stays for the answer."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console

QUIET_SECONDS = 15
"""Between two lines of progress where no terminal can redraw one: enough to see life in a CI log."""


class Progress:
    """`step` is a line that stays; `tick` is one that is redrawn on a terminal, and rare elsewhere."""

    def __init__(self) -> None:
        """Nothing is shown yet."""
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._status = self._console.status("")
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        """Use as a context, so that a terminal's redrawn line is gone at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the redrawn line away."""
        self._status.stop()

    def step(self, sentence: str) -> None:
        """Something began or ended."""
        self._status.stop()
        self._console.print(sentence, markup=False)
        self._told = time.monotonic()

    def tick(self, sentence: str) -> None:
        """Something is still going on."""
        if sys.stderr.isatty():
            self._status.update(sentence)
            self._status.start()
        elif time.monotonic() - self._told >= QUIET_SECONDS:
            self.step(sentence)
