"""SIGTERM, for commands that have something to take down."""

import signal
import sys
from types import FrameType


def leave_on_sigterm() -> None:
    """Have SIGTERM raise SystemExit, so that `with`, `except` and `finally` end what was started."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
