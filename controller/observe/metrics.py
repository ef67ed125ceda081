"""Every metric.

Label values come from fixed sets, and every series exists from the start, so that no alert waits for a first event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller import __version__
from controller.core.errors import Problem
from controller.core.model import Reason
from controller.core.states import State
from controller.observe.counts import SecretState, StateCounts

Result = Literal["written", "unchanged", "conflict", "failed", "refused"]

GrantAnswer = Literal["granted", "refused", "failed"]

EventResult = Literal["written", "merged", "dropped", "failed"]

RESULTS: tuple[Result, ...] = ("written", "unchanged", "conflict", "failed", "refused")
MINT_PROBLEMS = (
    Problem.MINT_REFUSED,
    Problem.IDENTITY_UNKNOWN,
    Problem.REQUEST_REFUSED,
    Problem.PROOF_MISSING,
    Problem.PROOF_UNFIT,
    Problem.CA_FILE_UNFIT,
    Problem.SERVICE_ACCOUNT_MISSING,
    Problem.TOKEN_REQUEST_REFUSED,
    Problem.TOKEN_REQUEST_FAILS,
    Problem.TOKEN_UNFIT,
    Problem.ISSUER_THROTTLES,
    Problem.ISSUER_UNAVAILABLE,
    Problem.CLUSTER_ISSUER_UNREACHABLE,
    Problem.ISSUER_MALFORMED,
    Problem.UNEXPECTED,
)
MINTED = "Minted"
CLEANUP_RESULTS = ("done", "failed")
GRANT_ANSWERS: tuple[GrantAnswer, ...] = ("granted", "refused", "failed")
EVENT_RESULTS: tuple[EventResult, ...] = ("written", "merged", "dropped", "failed")

_PREFIX = "pull_secret_updater_"
_MINT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LATENESS_BUCKETS = (0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
_LIFE_LEFT_BUCKETS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.34, 0.35, 0.4, 0.45, 0.5, 0.75, 1.0)
_HOLD_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_HORIZONS = {300: "5m", 900: "15m", 3600: "60m"}


class Metrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(
        self,
        *,
        providers: Collection[str],
        policies: Collection[str],
        relist_reasons: Collection[str],
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped upstream
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Info(_PREFIX + "build", "What is running.", registry=self.registry).info({"version": __version__})
        self._refreshes = self._counter(
            "refreshes", "Refreshes, by result and by why they were due.", ("provider", "result", "reason")
        )
        self._mints = self._counter("mints", "Requests for a token, by result.", ("provider", "result"))
        self._cleanups = self._counter(
            "cleanups", "Clean-ups of old tokens at an issuer, by result.", ("provider", "result")
        )
        self._relists = self._counter("relists", "Lists of all Secrets, by reason.", ("reason",))
        self._events = self._counter("events", "Events about Secrets, by what became of them.", ("result",))
        self._mint_duration = self._histogram("mint_duration_seconds", "How long issuers took.", _MINT_BUCKETS)
        self._lateness = self._histogram(
            "refresh_lateness_seconds", "How long after its deadline a refresh began.", _LATENESS_BUCKETS
        )
        self._life_left = self._histogram(
            "replaced_life_left_ratio",
            "The share of its life that was left of a token when the next one was written, where that was scheduled.",
            _LIFE_LEFT_BUCKETS,
        )
        self._hold = self._histogram(
            "event_loop_hold_seconds", "How late the event loop was for a timer, once a second.", _HOLD_BUCKETS
        )
        self._clock_skew = self._gauge(
            "issuer_clock_skew_seconds",
            "How far ahead of ours the issuer's clock was at its last response, to the second; NaN before one.",
            ("provider",),
        )
        self._queue_depth = self._gauge(
            "queue_depth", "Claims that are due and are waiting for a worker.", ("provider",)
        )
        self._circuit_open = self._gauge("circuit_open", "1 while a failing issuer is only probed.", ("provider",))
        self._policy_installed = self._gauge(
            "policy_installed", "1 if the admission policy and its binding are installed and unchanged.", ("policy",)
        )
        self._watch_refused = self._gauge(
            "watch_refused", "Watches that the API server refuses: RBAC is missing, or the credential is wrong."
        )
        self._watch_age = self._gauge(
            "watch_age_seconds", "Seconds since the last sign of life from the API server, longest of all watches."
        )
        for provider in providers:
            self.clock_skew(provider, math.nan)
            for result in RESULTS:
                for reason in Reason:
                    self._refreshes.labels(provider, result, reason.value)
            for outcome in (MINTED, *(problem.reason for problem in MINT_PROBLEMS)):
                self._mints.labels(provider, outcome)
            for cleanup_result in CLEANUP_RESULTS:
                self._cleanups.labels(provider, cleanup_result)
        for event_result in EVENT_RESULTS:
            self._events.labels(event_result)
        for policy in policies:
            self._policy_installed.labels(policy)
        for relist_reason in relist_reasons:
            self._relists.labels(relist_reason)

    def minted(self, provider: str, problem: Problem | None, seconds: float) -> None:
        """Count one request for a token; `problem` None is a success."""
        self._mints.labels(provider, problem.reason if problem else MINTED).inc()
        self._mint_duration.observe(seconds)

    def cleaned(self, provider: str, *, succeeded: bool) -> None:
        """Count one clean-up of old tokens."""
        self._cleanups.labels(provider, CLEANUP_RESULTS[0 if succeeded else 1]).inc()

    def refreshed(self, provider: str, result: Result, reason: Reason) -> None:
        """Count the result of a refresh."""
        self._refreshes.labels(provider, result, reason.value).inc()

    def begun(self, lateness_seconds: float) -> None:
        """Record how long after its deadline a claim was taken from its queue."""
        self._lateness.observe(max(0.0, lateness_seconds))

    def replaced(self, life_left_ratio: float) -> None:
        """Record how much of its life a token had left when the next one was written in its place."""
        self._life_left.observe(life_left_ratio)

    def held(self, seconds: float) -> None:
        """Record how late the event loop was for a timer."""
        self._hold.observe(seconds)

    def clock_skew(self, provider: str, seconds: float) -> None:
        """Set how far the issuer's clock is ahead of ours."""
        self._clock_skew.labels(provider).set(seconds)

    def relisted(self, reason: str) -> None:
        """Count a list of all Secrets."""
        self._relists.labels(reason).inc()

    def event_recorded(self, result: EventResult) -> None:
        """Count something that was recorded for an Event."""
        self._events.labels(result).inc()

    def policy_installed(self, policy: str, installed: bool) -> None:
        """Set whether an admission policy is installed."""
        self._policy_installed.labels(policy).set(installed)

    def watch_provider(
        self, provider: str, *, queue_depth: Callable[[], int], circuit_open: Callable[[], bool]
    ) -> None:
        """Read both at every scrape."""
        self._queue_depth.labels(provider).set_function(queue_depth)
        self._circuit_open.labels(provider).set_function(circuit_open)

    def watch_state(self, *, age_seconds: Callable[[], float], refused: Callable[[], int]) -> None:
        """Read these at every scrape."""
        self._watch_age.set_function(age_seconds)
        self._watch_refused.set_function(refused)

    def watch_grants(self) -> Callable[[GrantAnswer], None]:
        """Count the answers to whether a namespace may use an identity, by the function that is returned."""
        counter = self._counter("grant_checks", "Answers to whether a namespace may use an identity.", ("answer",))
        for answer in GRANT_ANSWERS:
            counter.labels(answer)
        return lambda answer: counter.labels(answer).inc()

    def watch_targets(self, count: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """Count the targets' namespaces at every scrape, by target and state."""
        self.registry.register(_TargetCollector(count))

    def watch_states(
        self, count: Callable[[], StateCounts], *, secrets: Callable[[], Iterable[SecretState]] | None
    ) -> None:
        """Count the claims at every scrape; `secrets` gives the series per Secret, where they are switched on."""
        self.registry.register(_StateCollector(count, secrets))

    def _counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(_PREFIX + name, text, tuple(labels), registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(_PREFIX + name, text, tuple(labels), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(_PREFIX + name, text, buckets=buckets, registry=self.registry)


class _StateCollector(Collector):
    def __init__(self, count: Callable[[], StateCounts], secrets: Callable[[], Iterable[SecretState]] | None) -> None:
        self._count = count
        self._secrets = secrets

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        counts = self._count()
        states, problems = counts.states, counts.problems
        yield _gauge("managed_claims", "Identities that Secrets ask for.", sum(states.values()))
        yield _gauges(
            "claims",
            "Identities that Secrets ask for, by state.",
            "state",
            {state.value: number for state, number in states.items()},
        )
        yield _gauges(
            "refused_claims",
            "Claims with a problem, by its reason; whether or not a token is still valid.",
            "reason",
            {problem.reason: number for problem, number in problems.items()},
        )
        yield _gauge("contested_claims", "Claims whose writes somebody keeps reverting.", problems[Problem.FIGHT])
        yield _gauge(
            "secret_expires_timestamp_seconds_min",
            "The earliest expiry of all Secrets; NaN if there is none.",
            math.nan if counts.earliest_expiry is None else counts.earliest_expiry,
        )
        yield _gauge(
            "life_left_ratio_min",
            "The least share of its life left of any token, from 0 to 1; NaN if there is none.",
            math.nan if counts.least_life_left is None else counts.least_life_left,
        )
        yield _gauge(
            "oldest_unfilled_seconds",
            "For how long the claim that has waited longest for its first token has been known; 0 if none waits.",
            counts.oldest_unfilled_seconds,
        )
        yield _gauge(
            "oldest_overdue_seconds",
            "For how long the refresh that has waited longest has been due; 0 if none waits.",
            counts.oldest_overdue_seconds,
        )
        yield _gauges(
            "due_claims",
            "Claims that need a token within so many minutes, those that wait for one already among them.",
            "horizon",
            {_HORIZONS[seconds]: number for seconds, number in counts.due_within.items()},
        )
        yield _gauge("expired_claims", "Claims whose token has expired.", states[State.EXPIRED])
        yield CounterMetricFamily(
            _PREFIX + "expired_seconds",
            "Seconds that claims were without a valid token after having had one.",
            value=counts.expired_seconds,
        )
        if self._secrets is not None:
            yield from _per_secret(self._secrets())


class _TargetCollector(Collector):
    def __init__(self, count: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        self._count = count

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            _PREFIX + "target_namespaces",
            "Namespaces that a target selects, or has to leave, by what it has come to there.",
            labels=("target", "state"),
        )
        for labels, number in self._count().items():
            family.add_metric(labels, number)
        yield family


def _per_secret(secrets: Iterable[SecretState]) -> Iterator[Metric]:
    labels = ("namespace", "name")
    expiry = GaugeMetricFamily(_PREFIX + "secret_expires_timestamp_seconds", "Expiry per Secret.", labels=labels)
    ready = GaugeMetricFamily(
        _PREFIX + "secret_ready", "1 if the Secret holds a valid token for each of its identities.", labels=labels
    )
    for secret in secrets:
        ready.add_metric(secret.ref, float(secret.is_ready))
        if secret.earliest_expiry is not None:
            expiry.add_metric(secret.ref, secret.earliest_expiry)
    yield from (expiry, ready)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family
