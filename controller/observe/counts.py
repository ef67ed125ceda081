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
from controller.core.model import Decision, Key, Ref, Refresh, View
from controller.core.policy import Policy
from controller.core.states import State, Verdict, holds_token, is_paused, judge
from controller.core.store import Store

_REMEMBERED = 10_000
_STALE_ALLOWED = 64
_SECOND = 1_000_000
_MINUTE = 60

HORIZONS_SECONDS = (300, 900, 3600)


@dataclass(frozen=True, slots=True)
class StateCounts:
    """The claims at one instant; paused Secrets are in none of the expiry figures."""

    states: Mapping[State, int]
    problems: Mapping[Problem, int]
    expired_seconds: float
    """Since the start; it never goes down."""
    earliest_expiry: float | None
    least_life_left: float | None
    """The least share of its life, from 0 to 1, that is left of any token; None without one."""
    oldest_unfilled_seconds: float
    """For how long the claim that has waited longest for its first token has been known to."""
    oldest_overdue_seconds: float
    """For how long the refresh that has waited longest has been due; a token is still in place, valid or not."""
    due_within: Mapping[int, int]
    """By each of `HORIZONS_SECONDS`, how many refreshes are due by then or already; to the minute."""


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
        self._lives: dict[int, _Earliest] = {}
        """The expiries, by how many seconds the token lives: of equal lives, the first to end has the least left."""
        self._due: Counter[int] = Counter()
        """The valid claims, by the minute in which they become due."""
        self._unfilled = _Waiting()
        self._overdue = _Waiting()
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
        due_at = decision.at if isinstance(decision, Refresh) else None
        self._unfilled.put(view.key, now if verdict.state is State.UNFILLED else None)
        self._overdue.put(view.key, due_at if verdict.state in (State.DUE, State.EXPIRED) else None)
        self._set(view.key, verdict)

    def removed(self, key: Key) -> None:
        """The claim is gone."""
        self._reported.pop(key, None)
        self._unfilled.put(key, None)
        self._overdue.put(key, None)
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
        first_ends = self._first_ends()
        shares = ((end - now) / max(life, 1) for life, end in first_ends.items())
        least = min(shares, default=None)
        expired = self._closed + len(self._expired_since) * _microseconds(now) - self._since
        self._most = max(self._most, expired)
        return StateCounts(
            states={state: self._states[state] for state in State},
            problems={problem: self._problems[problem] for problem in Problem},
            expired_seconds=self._most / _SECOND,
            earliest_expiry=min(first_ends.values(), default=None),
            least_life_left=None if least is None else min(max(least, 0.0), 1.0),
            oldest_unfilled_seconds=self._unfilled.oldest_seconds(now),
            oldest_overdue_seconds=self._overdue.oldest_seconds(now),
            due_within=self._due_within(now),
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

    def _first_ends(self) -> Mapping[int, float]:
        """By how many seconds a token lives, when the first of those ends."""
        firsts = ((life, held.first()) for life, held in self._lives.items())
        return {life: first for life, first in firsts if first is not None}

    def _due_within(self, now: float) -> Mapping[int, int]:
        already = len(self._unfilled) + len(self._overdue)
        return {
            horizon: already + sum(n for minute, n in self._due.items() if minute * _MINUTE <= now + horizon)
            for horizon in HORIZONS_SECONDS
        }

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
            self._keep_time(before, -1)
        if verdict is not None:
            self._verdicts[key] = verdict
            self._states[verdict.state] += 1
            self._problems[verdict.problem] += 1
            self._keep_time(verdict, 1)
            if verdict.until < math.inf:
                heapq.heappush(self._changes, (verdict.until, key))
                self._compact()
        self._time(key, before, verdict)

    def _keep_time(self, verdict: Verdict, more: int) -> None:
        """Count when a claim's token ends and when it is due, or, with -1, no longer."""
        if verdict.expiry is not None:
            life = round(verdict.life_seconds)
            held = self._lives.setdefault(life, _Earliest())
            held.add(verdict.expiry, more)
            if not held:
                del self._lives[life]
        if verdict.state is State.VALID:
            minute = int(verdict.until // _MINUTE)
            self._due[minute] += more
            if not self._due[minute]:
                del self._due[minute]

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


class _Waiting:
    """Since when keys have waited."""

    def __init__(self) -> None:
        self._since: dict[Key, float] = {}
        self._earliest = _Earliest()

    def put(self, key: Key, since: float | None) -> None:
        """The earliest instant that is given of a key counts, until None says that it waits no longer."""
        held = self._since.get(key)
        if held is not None and since is not None and held <= since:
            return
        if held is not None:
            del self._since[key]
            self._earliest.add(held, -1)
        if since is not None:
            self._since[key] = since
            self._earliest.add(since, 1)

    def oldest_seconds(self, now: float) -> float:
        first = self._earliest.first()
        return 0.0 if first is None else max(0.0, now - first)

    def __len__(self) -> int:
        return len(self._since)


class _Earliest:
    """The least of many instants that come and go; most are shared by many claims."""

    def __init__(self) -> None:
        self._held: Counter[float] = Counter()
        self._heap: list[float] = []
        """All of `_held`, and some that are no longer."""

    def add(self, instant: float, number: int) -> None:
        """Hold it so many times more; with -1, once less."""
        if instant not in self._held:
            heapq.heappush(self._heap, instant)
        self._held[instant] += number
        if not self._held[instant]:
            del self._held[instant]
        if len(self._heap) > 2 * len(self._held) + _STALE_ALLOWED:
            self._heap = sorted(self._held)

    def first(self) -> float | None:
        while self._heap and self._heap[0] not in self._held:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def __bool__(self) -> bool:
        return bool(self._held)


def _microseconds(instant: float) -> int:
    """Whole ones, since sums of many floats would now and then go down by a rounding error."""
    return round(instant * _SECOND)
