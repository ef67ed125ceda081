"""Counts the claims by their state, and the seconds for which some of them had no valid token.

Kept as versions change and as the clock goes on, so that reading the counts costs the same with 10 claims and with
100,000: only what has changed its state by itself since the last time is looked at.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import cachetools

from controller.core.errors import Problem
from controller.core.fights import ContestedClaims
from controller.core.model import Decision, Key, Ref, View
from controller.core.policy import Policy
from controller.core.states import State, Verdict, holds_token, is_paused, judge
from controller.core.store import Store

_REMEMBERED = 10_000
_STALE_ALLOWED = 64
_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class StateCounts:
    """The claims at one instant; paused Secrets are in none of the expiry figures."""

    states: Mapping[State, int]
    problems: Mapping[Problem, int]
    expired_seconds: float
    """Since the start; it never goes down."""
    earliest_expiry: float | None


@dataclass(frozen=True, slots=True)
class SecretState:
    """One Secret for the series per Secret."""

    ref: Ref
    earliest_expiry: float | None
    is_ready: bool
    """A kubelet reads a valid token of each of its identities."""


class StateCounter:
    """Told of every version of every claim by `placed`, and of every end of one by `removed`."""

    def __init__(
        self,
        *,
        store: Store,
        policy: Policy,
        contested: ContestedClaims,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._policy = policy
        self._contested = contested
        self._now = now
        self._verdicts: dict[Key, Verdict] = {}
        self._changes: list[tuple[float, Key]] = []
        """A heap of when verdicts end. Only what agrees with `_verdicts` counts; the rest is stale."""
        self._states: Counter[State] = Counter()
        self._problems: Counter[Problem | None] = Counter()
        self._expiries = _Earliest()
        self._expired_since: dict[Key, int] = {}
        """Microseconds; `_since` is their sum, `_closed` what expired tokens that were replaced since add to them."""
        self._since = self._closed = self._most = 0
        self._reported: cachetools.LRUCache[Key, tuple[tuple[object, ...], Problem]] = cachetools.LRUCache(_REMEMBERED)
        """By its inputs, what an Event says of a claim; the Secret may not say so, because it can't be written."""
        self._looked_at = now()
        self._started_at = _microseconds(self._looked_at)

    def placed(self, view: View, decision: Decision) -> None:
        """The policy has decided about a new version of a claim, or about the same at a later time."""
        now = self._now()
        verdict = judge(
            view,
            decision,
            standing=self._contested.standing(view, now),
            expiry=self._policy.expiry(view.claim),
            reported=self._reported_of(view),
            now=now,
        )
        if verdict.state is State.VALID:
            self._reported.pop(view.key, None)
        self._set(view.key, verdict)

    def removed(self, key: Key) -> None:
        """The claim is gone."""
        self._reported.pop(key, None)
        self._set(key, None)

    def reported(self, view: View, problem: Problem) -> None:
        """An Event says why a claim that is due isn't refreshed; a contested one is known as that."""
        if problem is not Problem.FIGHT:
            self._reported[view.key] = (view.inputs, problem)
            self._look(view.key)

    def count(self) -> StateCounts:
        """The figures of this instant."""
        now = self._now()
        if now < self._looked_at:  # the clock was set back, so what had changed by itself may not have
            for secret in self._store:
                for view in secret.views():
                    self._look(view.key)
        self._looked_at = now
        while self._changes and self._changes[0][0] <= now:
            at, key = heapq.heappop(self._changes)
            if key in self._verdicts and self._verdicts[key].until == at:
                self._look(key)
        expired = self._closed + len(self._expired_since) * _microseconds(now) - self._since
        self._most = max(self._most, expired)
        return StateCounts(
            states={state: self._states[state] for state in State},
            problems={problem: self._problems[problem] for problem in Problem},
            expired_seconds=self._most / _SECOND,
            earliest_expiry=self._expiries.first(),
        )

    def secrets(self) -> Iterator[SecretState]:
        """Each Secret that isn't paused. It costs a look at every Secret."""
        for secret in self._store:
            views = [view for view in secret.views() if not is_paused(view)]
            expiries = [self._policy.expiry(view.claim) for view in views]
            if views:
                yield SecretState(
                    secret.ref,
                    earliest_expiry=min((expiry for expiry in expiries if expiry is not None), default=None),
                    is_ready=self._is_ready(views),
                )

    def _is_ready(self, views: Iterable[View]) -> bool:
        now = self._now()
        return all(
            view.secret.right_type
            and holds_token(view, self._policy.expiry(view.claim), now)
            and self._policy.foreign_fault(view, view.secret.unreadable) is None
            for view in views
        )

    def _look(self, key: Key) -> None:
        secret = self._store.get(key.ref)
        view = secret.view(key.claim) if secret else None
        if view is not None:
            now = self._now()
            self.placed(view, self._policy.decide(view, now, self._contested.standing(view, now)))

    def _reported_of(self, view: View) -> Problem | None:
        inputs, problem = self._reported.get(view.key, ((), None))
        return problem if inputs == view.inputs else None

    def _set(self, key: Key, verdict: Verdict | None) -> None:
        before = self._verdicts.get(key)
        if before == verdict:
            return
        if before is not None:
            del self._verdicts[key]
            self._states[before.state] -= 1
            self._problems[before.problem] -= 1
            self._expiries.discard(before.expiry)
        if verdict is not None:
            self._verdicts[key] = verdict
            self._states[verdict.state] += 1
            self._problems[verdict.problem] += 1
            self._expiries.add(verdict.expiry)
            if verdict.until < math.inf:
                heapq.heappush(self._changes, (verdict.until, key))
                self._compact()
        self._time(key, before, verdict)

    def _time(self, key: Key, before: Verdict | None, verdict: Verdict | None) -> None:
        """Count the seconds of a token that has expired, and stop when it is replaced, paused or gone."""
        now = self._now()
        if before is not None and before.expiry is not None and before.expiry <= now:
            self._begin(key, before.expiry)
        expiry = verdict.expiry if verdict is not None and verdict.state is State.EXPIRED else None
        if before is not None and before.expiry == expiry:
            return
        if (since := self._expired_since.pop(key, None)) is not None:
            self._since -= since
            self._closed += max(0, _microseconds(now) - since)
        if expiry is not None:
            # One that was paused, wiped or another until now was without a token for reasons of its own.
            self._begin(key, expiry if before is None else now)

    def _begin(self, key: Key, expired_at: float) -> None:
        if key not in self._expired_since:
            self._expired_since[key] = since = max(_microseconds(expired_at), self._started_at)
            self._since += since

    def _compact(self) -> None:
        if len(self._changes) > 2 * len(self._verdicts) + _STALE_ALLOWED:
            self._changes = [(v.until, key) for key, v in self._verdicts.items() if v.until < math.inf]
            heapq.heapify(self._changes)


class _Earliest:
    """The least of many instants that come and go; most are shared by many claims."""

    def __init__(self) -> None:
        self._held: Counter[float] = Counter()
        self._heap: list[float] = []
        """All of `_held`, and some that are no longer."""

    def add(self, instant: float | None) -> None:
        if instant is None:
            return
        if instant not in self._held:
            heapq.heappush(self._heap, instant)
        self._held[instant] += 1
        if len(self._heap) > 2 * len(self._held) + _STALE_ALLOWED:
            self._heap = sorted(self._held)

    def discard(self, instant: float | None) -> None:
        if instant is None:
            return
        self._held[instant] -= 1
        if not self._held[instant]:
            del self._held[instant]

    def first(self) -> float | None:
        while self._heap and self._heap[0] not in self._held:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None


def _microseconds(instant: float) -> int:
    """Whole ones, since sums of many floats would now and then go down by a rounding error."""
    return round(instant * _SECOND)
