"""When to refresh and when to try again: arithmetic on instants, with jitter that is the same at every look.

Jitter is a hash, so the same Secret has the same moment on any replica and after any restart, and re-checking never
re-rolls it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from controller.core.errors import Pace

RETRY_AFTER_CAP_SECONDS = 300.0
URGENT_STEP_SECONDS = 60.0
_URGENT_SECONDS = 1800.0
_STEPS_SECONDS = {Pace.FAST: (1.0, 60.0), Pace.SLOW: (30.0, 900.0)}


@dataclass(frozen=True, slots=True)
class RefreshWindow:
    """The part of a token's life in which it is refreshed, and the longest life that counts (seconds)."""

    start: float = 0.50
    end: float = 0.65
    max_lifetime_seconds: float = 12 * 3600.0


def fraction(*parts: object) -> float:
    """A stable draw from [0, 1)."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6]) / (1 << 48)


def effective_expiry(window: RefreshWindow, *, issued_at: int, expires_at: int, credential_exp: int | None) -> float:
    """The instant from which a credential counts as expired; an annotation can shorten its own life only."""
    latest = min(float(expires_at), issued_at + window.max_lifetime_seconds)
    return latest if credential_exp is None else min(latest, float(credential_exp))


def refresh_at(
    window: RefreshWindow, *, uid: str, issued_at: int, expiry: float, given_seconds: float | None = None
) -> float:
    """The instant to refresh: a draw from the window of the life, stable for (uid, issued_at).

    `given_seconds` is the life that the issuer gave, where `expiry` is sooner. Never sooner after the issue than the
    lesser of 10 s and half of that life: an issuer whose clock is off costs a request every 10 s and not a hot loop.
    """
    lifetime = expiry - issued_at
    share = window.start + (window.end - window.start) * fraction(uid, issued_at)
    given = lifetime if given_seconds is None else given_seconds
    return issued_at + max(lifetime * share, min(10.0, given / 2), 0.0)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a claim has: a token that is valid until `valid_until`, or none since `missing_since`."""

    valid_until: float | None
    missing_since: float | None = None
    """When it was first seen without a valid token; None while it has one."""

    @property
    def ends_at(self) -> float:
        """When it ran out, or will."""
        return self.valid_until or self.missing_since or 0.0

    @property
    def is_missing(self) -> bool:
        """It has no valid token: the most urgent state there is."""
        return self.missing_since is not None


def retry_at(
    *,
    failed_at: float,
    attempt: int,
    pace: Pace,
    spread_by: str,
    coverage: Coverage,
    urgent_step_seconds: float = URGENT_STEP_SECONDS,
    retry_after_seconds: float | None = None,
) -> float | None:
    """The instant to try again after the `attempt`-th failure in a row (from 1); None if only a change helps.

    With a valid token no step is longer than an eighth of what is left of it, nor shorter than 1 s. Without one, no
    step is longer than `urgent_step_seconds` for half an hour. A `retry_after_seconds` of the issuer wins, up to 300 s.
    """
    if pace is Pace.ON_CHANGE:
        return None
    if retry_after_seconds is not None:
        return failed_at + min(max(retry_after_seconds, 1.0), RETRY_AFTER_CAP_SECONDS)
    first, longest = _STEPS_SECONDS[pace]
    if coverage.missing_since is not None and failed_at - coverage.missing_since < _URGENT_SECONDS:
        first, longest = min(first, urgent_step_seconds), min(longest, urgent_step_seconds)
    step = min(first * 2.0 ** min(attempt - 1, 20), longest)
    step *= 1.0 - fraction(spread_by, attempt) / 2
    if coverage.valid_until is not None:
        step = min(step, max((coverage.valid_until - failed_at) / 8, 1.0))
    return failed_at + step
