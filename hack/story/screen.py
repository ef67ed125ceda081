"""What the reader sees: headings, commands with their answers, claims, and a token's life running out.

On a terminal things move; elsewhere, say in a CI log, they are plain lines. A claim is only ever printed by `claim`,
which is told whether it holds: so nothing untrue is said, and the story can fail.
"""

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

WIDTH = 104
"""Of the picture, and at most of the story on a terminal: the longest command that can't be broken, and its margin."""
BAR_CELLS = 30
FRAME_SECONDS = 0.1


class UntrueError(Exception):
    """What was to be claimed is not so."""


class Screen:
    """Prints on standard output and, out of sight, on the page that becomes the picture."""

    def __init__(self) -> None:
        terminal = Console(highlight=False)
        self._terminal = Console(highlight=False, width=min(terminal.width, WIDTH))
        self._page = Console(
            file=io.StringIO(), record=True, width=WIDTH, force_terminal=True, color_system="truecolor", highlight=False
        )

    def heading(self, title: str) -> None:
        """A new part of the story."""
        for console in (self._terminal, self._page):
            console.print()
            if console.is_terminal:
                console.print(Rule(Text(title, style="bold cyan"), align="left", style="cyan"))
            else:
                console.print(f"== {title}", markup=False)

    def say(self, sentence: str) -> None:
        """Something to know."""
        self._print("  ", Text(sentence))

    def command(self, line: str) -> None:
        """What is typed."""
        self._print(Text("$ ", style="dim"), Text(line, style="bold"))

    def answer(self, output: str) -> None:
        """What comes back, line by line."""
        for line in output.strip().splitlines():
            self._print("  ", Text(line.rstrip(), style="dim"))

    def claim(self, sentence: str, *, holds: bool, detail: Text | str = "") -> None:
        """State a fact, and after it some `detail`. Raises UntrueError if it isn't one."""
        if not holds:
            raise UntrueError(f"not so: {sentence} {detail}".rstrip())
        body = Text(sentence)
        if detail:
            body.append("  ").append_text(Text(str(detail), style="dim") if isinstance(detail, str) else detail)
        self._print(Text("✓ ", style="bold green"), body)

    @contextlib.contextmanager
    def working(self, sentence: str) -> Iterator[Callable[[], str]]:
        """While something takes time, say what; yields what tells how long it took so far."""
        began = time.monotonic()

        def took() -> str:
            return f"{time.monotonic() - began:.1f} s"

        with self._terminal.status(Text(sentence)) if self._terminal.is_terminal else contextlib.nullcontext():
            yield took

    @contextlib.contextmanager
    def countdown(self, *, begins: float, ends: float) -> Iterator[Callable[[], None]]:
        """A life that runs out, both ends in seconds since the epoch. Yields what draws the next frame, and waits."""
        if not self._terminal.is_terminal:
            yield lambda: time.sleep(FRAME_SECONDS)
            return

        def frame() -> Text:
            left = max(ends - time.time(), 0.0)
            return Text.assemble(
                "  ", life(time.time(), begins=begins, ends=ends), f"  {left:4.1f} s of the token left"
            )

        with Live(frame(), console=self._terminal, transient=True, auto_refresh=False) as live:

            def draw() -> None:
                live.update(frame(), refresh=True)
                time.sleep(FRAME_SECONDS)

            yield draw

    def save(self, path: Path, *, title: str) -> None:
        """The picture of all that was printed so far."""
        self._page.save_svg(str(path), title=title)

    def _print(self, margin: Text | str, body: Text) -> None:
        for console in (self._terminal, self._page):
            if console.is_terminal:
                line = Table.grid()
                line.add_column(no_wrap=True)
                line.add_column(overflow="fold")
                line.add_row(margin, body)
                console.print(line)
            else:
                console.print(Text.assemble(margin, body), soft_wrap=True)


def life(now: float, *, begins: float, ends: float) -> Text:
    """A bar: what of a token's life is over at `now`, thick, and what is left, thin."""
    over = round(BAR_CELLS * min(max((now - begins) / (ends - begins), 0.0), 1.0))
    return Text.assemble(("━" * over, "green"), ("─" * (BAR_CELLS - over), "dim"))


def clock(instant: float) -> str:
    """The time of day, local."""
    return datetime.fromtimestamp(instant).astimezone().strftime("%H:%M:%S")
