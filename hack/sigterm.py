"""SIGTERM, for commands that have to clean up."""

import signal
import sys
from types import FrameType


def leave_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit, so that `with`, `except` and `finally` stop what was started."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
