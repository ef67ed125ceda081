"""What a claim is by its Secret's metadata alone: for people, who may see neither its data nor the configuration.

It is the controller's own judgement, as if data and configuration were what the annotations say of them. What only
those show the controller has written into `error`, or into an Event where it can't write that.
"""

from __future__ import annotations

import math

from controller.core.errors import Problem, Rejection
from controller.core.model import Decision, Keep, Reason, Refresh, Standing, View
from controller.core.policy import Policy, due_for
from controller.core.schedule import RefreshWindow
from controller.core.states import Verdict, judge, problem_of

_POLICY = Policy((), shapes=(), window=RefreshWindow(max_lifetime_seconds=math.inf))
"""`expires-at` is within the controller's own maximum already."""


def judge_annotated(view: View, *, refresh_at: int | None, reported: Problem | None, now: float) -> Verdict:
    """The verdict on a claim of a Secret that `project_metadata` has read; `reported` is what an Event says of it."""
    expiry = _POLICY.expiry(view.claim)
    contested = problem_of(view.claim.error) is Problem.FIGHT
    return judge(
        view,
        _decide(view, refresh_at=refresh_at, expiry=expiry, now=now),
        standing=Standing(Rejection(Problem.FIGHT), math.inf) if contested else None,
        expiry=expiry,
        reported=reported,
        now=now,
    )


def _decide(view: View, *, refresh_at: int | None, expiry: float | None, now: float) -> Decision:
    if (reason := due_for(view, now, wanted=view.claim.issued_for)) is not None or expiry is None:
        return Refresh(reason or Reason.NEW, now)
    due_at = min(expiry, expiry if refresh_at is None else refresh_at)
    if now >= due_at:
        return Refresh(Reason.EXPIRED if now >= expiry else Reason.SCHEDULED, due_at)
    return Keep(due_at)
