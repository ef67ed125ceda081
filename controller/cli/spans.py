"""Times for people: one unit, as kubectl has it."""

from __future__ import annotations

_UNITS = ((86_400 * 2, 86_400, "d"), (3_600 * 2, 3_600, "h"), (60 * 2, 60, "m"), (0, 1, "s"))
"""From how many seconds on a unit is used."""


def span(seconds: float) -> str:
    """A length of time: 90s, 38m, 5h, 12d."""
    whole = max(int(seconds), 0)
    size, unit = next((size, unit) for least, size, unit in _UNITS if whole >= least)
    return f"{whole // size}{unit}"


def until(instant: float, now: float) -> str:
    """An instant, from now: `in 38m`, `4m ago`."""
    return f"in {span(instant - now)}" if instant > now else f"{span(now - instant)} ago"
