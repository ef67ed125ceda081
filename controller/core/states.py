"""What a claim is at one instant, in one word: what the metrics count.

The first that fits, from the top:

    paused     the Secret is paused, so nothing is done about it
    expired    the token in place has run out
    contested  somebody keeps reverting our writes
    refused    something is in the way that somebody has to mend, whether or not a token is still valid
    unfilled   no token of ours is in place, and none of the above says why
    due        the token in place is valid, and another is due
    valid      the token in place is valid, and none is due

So what holds no usable token is never `valid` or `due`, whatever the reason.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

from controller.core.errors import Pace, Problem
from controller.core.model import Decision, Keep, Refresh, Report, Standing, View, Wipe


class State(enum.Enum):
    """See the module."""

    VALID = "valid"
    DUE = "due"
    UNFILLED = "unfilled"
    EXPIRED = "expired"
    REFUSED = "refused"
    CONTESTED = "contested"
    PAUSED = "paused"


class Verdict(NamedTuple):
    """A claim's state, the problem that is known of it, and until when both hold if no new version comes."""

    state: State
    problem: Problem | None
    expiry: float | None
    """When the token in place runs out or ran out; None without one and for a paused Secret."""
    until: float
    life_seconds: float
    """For how long the token in place was to live; 0 without one."""


_BY_REASON = {problem.reason: problem for problem in Problem}


def problem_of(text: str | None) -> Problem | None:
    """The problem that an `error` annotation, or an Event's reason, names; None if it is none of ours."""
    return _BY_REASON.get((text or "").partition(":")[0])


def judge(
    view: View,
    decision: Decision,
    *,
    standing: Standing | None,
    expiry: float | None,
    reported: Problem | None,
    now: float,
) -> Verdict:
    """The verdict on a claim at `now`.

    `decision`, `standing` and `expiry` are what the policy and the contested claims say of it; `reported` is a problem
    that was told by an Event and can't be written into the Secret.
    """
    if is_paused(view):
        unclear = Problem.PAUSED_UNCLEAR if view.secret.paused != "true" else None
        return Verdict(State.PAUSED, unclear, None, math.inf, 0.0)
    problem = _problem(view, decision, standing) or (reported if isinstance(decision, Refresh) else None)
    issued_at = view.claim.issued_at
    life = 0.0 if expiry is None or issued_at is None else expiry - issued_at
    if expiry is not None and expiry <= now:
        return Verdict(State.EXPIRED, problem, expiry, standing.until if standing else math.inf, life)
    ends_at = math.inf if expiry is None else expiry
    if issued_at is not None and issued_at > now:  # which makes it due, and not for ever
        ends_at = min(ends_at, issued_at)
    if standing is not None:
        return Verdict(State.CONTESTED, problem, expiry, min(standing.until, ends_at), life)
    if problem is not None and problem.pace is not Pace.FAST:
        return Verdict(State.REFUSED, problem, expiry, ends_at, life)
    if not holds_token(view, expiry, now):
        return Verdict(State.UNFILLED, problem, expiry, ends_at, life)
    match decision:
        case Keep(until) | Report(_, float(until)):
            return Verdict(State.VALID, problem, expiry, min(until, ends_at), life)
        case _:
            return Verdict(State.DUE, problem, expiry, ends_at, life)


def is_paused(view: View) -> bool:
    """Whether the Secret is left alone: any value of the annotation but `false` counts."""
    return view.secret.paused not in (None, "false")


def holds_token(view: View, expiry: float | None, now: float) -> bool:
    """Whether a valid token of ours is in place, as we wrote it."""
    return expiry is not None and now < expiry and view.claim.present_fingerprint == view.claim.fingerprint


def _problem(view: View, decision: Decision, standing: Standing | None) -> Problem | None:
    """The first of: who contests it, what the policy finds in it now, and what `error` says, if that is ours."""
    if standing is not None:
        return standing.rejection.problem
    if isinstance(decision, Wipe):
        return decision.rejection.problem
    if isinstance(decision, Report):
        return decision.rejection.problem if decision.rejection else None
    written = problem_of(view.claim.error)
    return None if written is Problem.FIGHT and isinstance(decision, Refresh) else written
