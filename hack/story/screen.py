"""What the user sees: headings, commands with their output, claims, and a token's life running out.

On a terminal things move; elsewhere, for example in a CI log, they are plain lines. Only `claim` prints a claim, and it
raises if the claim is false: so the demo says nothing untrue, and can fail.
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
"""The width of the picture, and the maximum on a terminal: the longest unbreakable command and its margin."""
BAR_CELLS = 30
FRAME_SECONDS = 0.1


class UntrueError(Exception):
    """A claim is false."""


class Screen:
    """Prints to standard output, and to a hidden page that becomes the picture."""

    def __init__(self) -> None:
        terminal = Console(highlight=False)
        self._terminal = Console(highlight=False, width=min(terminal.width, WIDTH))
        self._page = Console(
            file=io.StringIO(), record=True, width=WIDTH, force_terminal=True, color_system="truecolor", highlight=False
        )

    def heading(self, title: str) -> None:
        """Begin a new part."""
        for console in (self._terminal, self._page):
            console.print()
            if console.is_terminal:
                console.print(Rule(Text(title, style="bold cyan"), align="left", style="cyan"))
            else:
                console.print(f"== {title}", markup=False)

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        self._print("  ", Text(sentence))

    def command(self, line: str) -> None:
        """Print a command as if typed."""
        self._print(Text("$ ", style="dim"), Text(line, style="bold"))

    def answer(self, output: str) -> None:
        """Print a command's output, line by line."""
        for line in output.strip().splitlines():
            self._print("  ", Text(line.rstrip(), style="dim"))

    def claim(self, sentence: str, *, holds: bool, detail: Text | str = "") -> None:
        """State a fact, followed by a `detail`. Raises UntrueError if it doesn't hold."""
        if not holds:
            raise UntrueError(f"not true: {sentence} {detail}".rstrip())
        body = Text(sentence)
        if detail:
            body.append("  ").append_text(Text(str(detail), style="dim") if isinstance(detail, str) else detail)
        self._print(Text("✓ ", style="bold green"), body)

    @contextlib.contextmanager
    def working(self, sentence: str) -> Iterator[Callable[[], str]]:
        """While something takes time, say what it is; yields a function that returns how long it has taken."""
        began = time.monotonic()

        def took() -> str:
            return f"{time.monotonic() - began:.1f} s"

        with self._terminal.status(Text(sentence)) if self._terminal.is_terminal else contextlib.nullcontext():
            yield took

    @contextlib.contextmanager
    def countdown(self, *, begins: float, ends: float) -> Iterator[Callable[[], None]]:
        """Show a life running out; both ends are seconds since the epoch. Yields a function: draw a frame, and wait."""
        if not self._terminal.is_terminal:
            yield lambda: time.sleep(FRAME_SECONDS)
            return

        def frame() -> Text:
            left = max(ends - time.time(), 0.0)
            return Text.assemble(
                "  ", life(time.time(), begins=begins, ends=ends), f"  the token is valid for another {left:4.1f} s"
            )

        with Live(frame(), console=self._terminal, transient=True, auto_refresh=False) as live:

            def draw() -> None:
                live.update(frame(), refresh=True)
                time.sleep(FRAME_SECONDS)

            yield draw

    def save(self, path: Path, *, title: str) -> None:
        """Save a picture of everything that was printed so far."""
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
    """A bar: thick for the part of a token's life that is over at `now`, thin for the rest."""
    over = round(BAR_CELLS * min(max((now - begins) / (ends - begins), 0.0), 1.0))
    return Text.assemble(("━" * over, "green"), ("─" * (BAR_CELLS - over), "dim"))


def clock(instant: float) -> str:
    """The local time of day."""
    return datetime.fromtimestamp(instant).astimezone().strftime("%H:%M:%S")
