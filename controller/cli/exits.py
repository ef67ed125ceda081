"""The exit codes: one table for all commands, whatever the output.

    0  good
    1  something is wrong
    2  the command line, the kubeconfig or a configuration can't be used
    3  nothing wrong was found, but something could not be looked at
    4  a wait timed out

Of several, 1 wins over 4, and 4 over 3: what is known to be wrong counts for more than what isn't known.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Exit(enum.IntEnum):
    """See the module."""

    GOOD = 0
    WRONG = 1
    UNUSABLE = 2
    UNKNOWN = 3
    TIMEOUT = 4


_WORST_FIRST = (Exit.UNUSABLE, Exit.WRONG, Exit.TIMEOUT, Exit.UNKNOWN, Exit.GOOD)


def worst(codes: Iterable[Exit]) -> Exit:
    """The one that counts; GOOD of none."""
    return min(codes, key=_WORST_FIRST.index, default=Exit.GOOD)


class Level(enum.Enum):
    """What a finding means. `UNKNOWN` is no kind of `OK`: it could not be looked at."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"

    def exit(self, *, fail_on: str) -> Exit:
        """The exit code that it asks for; `fail_on` is `error` or `warning`."""
        match self:
            case Level.ERROR:
                return Exit.WRONG
            case Level.WARNING if fail_on == "warning":
                return Exit.WRONG
            case Level.UNKNOWN:
                return Exit.UNKNOWN
        return Exit.GOOD
