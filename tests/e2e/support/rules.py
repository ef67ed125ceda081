"""Cases for the alerts: series as a scrape every 15 s would give them, and which alerts fire when, by promtool."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from controller.core.errors import Problem
from controller.engine.fanout import TargetState
from hack.monitoring import RULES, promtool

STEP_SECONDS = 15
PREFIX = "pull_secret_updater_"
POD = 'job="pull-secret-updater",instance="10.0.0.1:8080",pod="a",container="controller",endpoint="metrics"'
OTHER_POD = 'job="pull-secret-updater",instance="10.0.0.2:8080",pod="b",container="controller",endpoint="metrics"'

Value = float | None
"""None: there is no sample, as when a scrape fails."""
Course = Callable[[float], Value]
"""A series, by seconds since its begin."""


def series(name: str, labels: str = "", *, pod: str = POD) -> str:
    """One of ours, as a Pod's scrape gives it."""
    return f"{PREFIX}{name}{{{', '.join(filter(None, (labels, pod)))}}}"


UP = f"up{{{POD}}}"
LIFE_LEFT = series("life_left_ratio_min")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What happens, and which alerts fire at which seconds; at all other times nothing is asked."""

    sentence: str
    courses: Mapping[str, Course]
    fires: Mapping[int, Sequence[str]] = field(default_factory=dict)
    values: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """What an expression gives at a time."""

    def test(self) -> dict[str, object]:
        """In the words of promtool. All alerts are asked for, so that none may fire beside those that should."""
        until = max((*self.fires, *self.values))
        courses = {UP: constant(1), **self.courses}
        asked = [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{int(at)}s",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": n} for name, n in _counted(names)],
            }
            for at, names in self.fires.items()
        ]
        asked += [
            {"expr": expression, "eval_time": f"{int(at)}s", "exp_samples": [{"labels": "{}", "value": value}]}
            for at, expected in self.values.items()
            for expression, value in expected.items()
        ]
        return {
            "name": self.sentence,
            "interval": f"{STEP_SECONDS}s",
            "input_series": [{"series": name, "values": _values(course, until)} for name, course in courses.items()],
            "promql_expr_test": asked,
        }


def run(cases: Sequence[Case], *, directory: Path, rules: str | None = None) -> None:
    """Run them on the rules, or on others. Raises PromtoolError with what differs."""
    (directory / "rules.yaml").write_text(RULES.read_text() if rules is None else rules)
    file = directory / "test.yaml"
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": f"{STEP_SECONDS}s",
        "tests": [case.test() for case in cases],
    }
    file.write_text(yaml.safe_dump(tests, width=math.inf))
    promtool("test", "rules", file)


def _counted(names: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, list(names).count(name)) for name in sorted(set(names))]


def _values(course: Course, until: float) -> str:
    samples = [course(step * STEP_SECONDS) for step in range(int(until) // STEP_SECONDS + 2)]
    return " ".join("_" if sample is None else f"{sample:.6f}" for sample in samples)


# How a series goes.


def constant(value: Value) -> Course:
    return lambda _: value


def between(begin: float, end: float, value: Value, otherwise: Value = 0) -> Course:
    """One value for a time, which lasts up to but not at `end`."""
    return lambda at: value if begin <= at < end else otherwise


def growing(per_second: float, begin: float = 0, end: float = math.inf) -> Course:
    """A counter that grows for a time."""
    return lambda at: per_second * (min(max(at, begin), end) - begin)


def outage(life: float, end: float = math.inf) -> Course:
    """The least life left, from the instant at which the issuer fails a token that was due at 0.65 of its life."""
    return lambda at: max(0.0, 0.35 - at / life) if at < end else 1.0


def since(begin: float, end: float = math.inf) -> Course:
    """For how long something that begins then has waited."""
    return lambda at: at - begin if begin <= at < end else 0


# The cases.

LIVES = {"15 min": 900, "1 h": 3600, "12 h": 43200}


def _cases() -> list[Case]:
    return [*_by_life(), *_thresholds(), *_mints(), *_absence(), *_quiet(), *_recorded()]


def _by_life() -> list[Case]:
    """What an outage raises, for lives that differ by a factor of 48: the same alerts at the same shares."""
    found = []
    for name, life in LIVES.items():
        low, critical = after(0.10 * life), after(0.25 * life)
        expired_at = math.ceil(0.35 * life / STEP_SECONDS) * STEP_SECONDS
        back = expired_at + 300
        courses = {
            LIFE_LEFT: outage(life, back),
            series("expired_claims"): between(expired_at, back, 3),
        }
        all_three = ["PullSecretExpired", "PullSecretLifeCritical", "PullSecretLifeLow"]
        fires = {
            0: [],
            low + 60 - STEP_SECONDS: [],
            low + 60: ["PullSecretLifeLow"],
            critical - STEP_SECONDS: ["PullSecretLifeLow"],
            critical: ["PullSecretLifeCritical", "PullSecretLifeLow"],
            expired_at + 60 - STEP_SECONDS: ["PullSecretLifeCritical", "PullSecretLifeLow"],
            expired_at + 60: all_three,
            back - STEP_SECONDS: all_three,
            back: [],
        }
        found.append(Case(sentence=f"an outage, with tokens of {name}", courses=courses, fires=fires))
        healthy = {LIFE_LEFT: lambda at, life=life: 1 - (at % (0.65 * life)) / life}
        times = [0.65 * life * share for share in (0.5, 0.99, 1, 2.99, 3)]
        found.append(
            Case(
                sentence=f"tokens of {name} that are replaced as late as may be",
                courses=healthy,
                fires={math.floor(at / STEP_SECONDS) * STEP_SECONDS: [] for at in times},
            )
        )
        blip = {LIFE_LEFT: outage(life, 0.09 * life)}
        found.append(
            Case(sentence=f"an outage of 9 % of {name}", courses=blip, fires={0: [], after(0.09 * life) + 120: []})
        )
    return found


def after(seconds: float) -> int:
    """The first scrape after an instant."""
    return (math.floor(seconds / STEP_SECONDS) + 1) * STEP_SECONDS


def _held(alert: str, name: str, *, bad: float, good: float = 0, wait: int, fires: int = 1) -> Case:
    """A gauge that is bad for longer than the alert waits: it fires, not a step earlier, and resolves."""
    begin, end = 300, 300 + wait + 600
    return Case(
        sentence=f"{alert}: {name} is {bad} for longer than {wait} s",
        courses={name: between(begin, end, bad, good)},
        fires={begin + wait - STEP_SECONDS: [], begin + wait: [alert] * fires, end - STEP_SECONDS: [alert], end: []},
    )


def _short(alert: str, name: str, *, bad: float, good: float = 0, wait: int) -> Case:
    begin = 300
    return Case(
        sentence=f"{alert}: {name} is {bad} for less than {wait} s",
        courses={name: between(begin, begin + wait, bad, good)},
        fires={begin + wait - STEP_SECONDS: [], begin + wait: [], begin + 2 * wait: []},
    )


def _limit(alert: str, name: str, *, value: float, wait: int) -> Case:
    """A value at the limit itself, which is still good."""
    return Case(
        sentence=f"{alert}: {name} stays at {value}",
        courses={name: constant(value)},
        fires={wait + 600: []},
    )


def _thresholds() -> list[Case]:
    refused = series("refused_claims", 'reason="MintRefused"')
    policy = series("policy_installed", 'policy="pull-secret-updater-own-writes"')
    skew = series("issuer_clock_skew_seconds", 'provider="chainguard"')
    gauges: list[tuple[str, str, float, float, float, int]] = [
        # alert, series, bad, good, limit, seconds that it waits
        ("PullSecretExpired", series("expired_claims"), 1, 0, 0, 60),
        ("PullSecretUpdaterWatchRefused", series("watch_refused"), 1, 0, 0, 300),
        ("PullSecretRefused", refused, 1, 0, 0, 1800),
        ("PullSecretContested", series("contested_claims"), 1, 0, 0, 900),
        ("PullSecretUpdaterClockSkew", skew, 61, 0, 60, 300),
        ("PullSecretUpdaterClockSkew", skew, -61, 0, -60, 300),
        ("PullSecretUpdaterPolicyMissing", policy, 0, 1, 1, 600),
        ("PullSecretUpdaterLate", series("oldest_overdue_seconds"), 301, 0, 300, 300),
        ("PullSecretNeverFilled", series("oldest_unfilled_seconds"), 121, 0, 120, 60),
        *(
            (
                "PullSecretTargetBlocked",
                series("target_namespaces", f'target="t",state="{state}"'),
                *(1.0, 0.0, 0.0),
                900,
            )
            for state in ("conflict", "denied", "failed", "held")
        ),
    ]
    found = []
    for alert, name, bad, good, limit, wait in gauges:
        found += [
            _held(alert, name, bad=bad, good=good, wait=wait),
            _short(alert, name, bad=bad, good=good, wait=wait),
            _limit(alert, name, value=limit, wait=wait),
        ]
    age = series("watch_age_seconds")
    stale, never = "PullSecretUpdaterWatchStale", "PullSecretNeverFilled"
    # It is above 150 s at 465; of the 2 min before 570 every sample is; a minute more has to pass.
    silent = {570 + 60 - STEP_SECONDS: [], 570 + 60: [stale], 1185: [stale], 1200: []}
    waits = {435 + 60 - STEP_SECONDS: [], 435 + 60: [never], 1185: [never], 1200: []}
    return [
        *found,
        Case(sentence="a watch that goes silent", courses={age: since(300, 1200)}, fires=silent),
        Case(sentence="a watch that is restarted in time", courses={age: since(300, 600)}, fires={600: [], 900: []}),
        Case(sentence="a watch with a bookmark a minute", courses={age: lambda at: at % 60}, fires={600: [], 3600: []}),
        Case(
            sentence="a first fill that fails for 15 min",
            courses={series("oldest_unfilled_seconds"): since(300, 1200)},
            fires=waits,
        ),
        *_reasons(),
        Case(
            sentence="what is ready, waits or is ending in a target's namespaces",
            courses={
                series("target_namespaces", f'target="t",state="{state.value}"'): constant(5)
                for state in TargetState
                if state.value not in ("conflict", "denied", "failed", "held")
            },
            fires={3600: []},
        ),
    ]


PASSING = {
    *(Problem.ISSUER_THROTTLES, Problem.ISSUER_UNAVAILABLE, Problem.ISSUER_MALFORMED, Problem.MINTS_LIMITED),
    *(Problem.GRANT_UNCLEAR, Problem.TOKEN_REQUEST_FAILS, Problem.WRITE_FAILS, Problem.FIGHT),
}
"""The reasons of which PullSecretRefused doesn't tell."""


def _reasons() -> list[Case]:
    def lasting(problem: Problem) -> dict[str, Course]:
        return {series("refused_claims", f'reason="{problem.reason}"'): constant(1)}

    return [
        *(
            Case(
                sentence=f"{problem.reason} for an hour",
                courses=lasting(problem),
                fires={1785: [], 1800: ["PullSecretRefused"]},
            )
            for problem in Problem
            if problem not in PASSING
        ),
        *(
            Case(sentence=f"{problem.reason} for an hour, which passes", courses=lasting(problem), fires={3600: []})
            for problem in sorted(PASSING, key=lambda each: each.reason)
        ),
    ]


def _mints() -> list[Case]:
    def mints(result: str, provider: str = "chainguard", pod: str = POD) -> str:
        return series("mints_total", f'provider="{provider}",result="{result}"', pod=pod)

    failing, throttled = "PullSecretMintFailing", "PullSecretMintThrottled"
    return [
        # Half of them fail, which is the limit, and from 1800 on more than half.
        Case(
            sentence="an issuer that fails half of all requests, then more",
            courses={
                mints("Minted"): growing(0.1),
                mints("IssuerUnavailable"): lambda at: 0.1 * at + 0.1 * max(0, at - 1800),
            },
            fires={1800: [], 1815 + 300 - STEP_SECONDS: [], 1815 + 300: [failing]},
        ),
        Case(
            sentence="an issuer that fails and comes back",
            courses={
                mints("Minted"): growing(0.1, begin=2400),
                mints("IssuerUnavailable"): growing(0.1, begin=600, end=2400),
            },
            # Of the 15 min before 2850 half had failed.
            fires={600 + 300: [], 615 + 300: [failing], 2400: [failing], 2880: [], 4000: []},
        ),
        Case(
            sentence="a single identity that is asked for once an hour and fails",
            courses={mints("Minted"): constant(1), mints("MintRefused"): between(600, 10000, 1)},
            fires={885: [], 600 + 300: [failing], 600 + 900: []},
        ),
        Case(
            sentence="an issuer that nobody asks",
            courses={mints("Minted"): constant(7), mints("IssuerUnavailable"): constant(3)},
            fires={900: [], 3600: []},
        ),
        Case(
            sentence="one issuer of two that fails",
            courses={
                mints("Minted"): growing(10),
                mints("IssuerUnavailable"): constant(0),
                mints("Minted", "other"): constant(0),
                mints("IssuerUnavailable", "other"): growing(0.01),
            },
            fires={300: [], 315: [failing], 3600: [failing]},
        ),
        Case(
            sentence="an issuer that throttles a fifth, for long enough",
            courses={
                mints("Minted"): growing(0.08),
                mints("IssuerThrottles"): growing(0.02, begin=600, end=3000),
            },
            # A tenth of what was asked in 15 min is throttled once it has been for 400 s.
            fires={1000 + 900: [], 1020 + 900: [throttled], 3000: [throttled], 3600: []},
        ),
        Case(
            sentence="an issuer that throttles for less than 15 min",
            courses={
                mints("Minted"): growing(0.08),
                mints("IssuerThrottles"): growing(0.02, begin=600, end=1200),
            },
            fires={1200: [], 1800: [], 2400: []},
        ),
        Case(
            sentence="an issuer that throttles everything, which is no failure",
            courses={mints("Minted"): constant(0), mints("IssuerThrottles"): growing(0.1)},
            fires={900: [], 915: [throttled]},
        ),
    ]


def _absence() -> list[Case]:
    absent = "PullSecretUpdaterAbsent"
    restarted = {
        # The new process counts from 0, and lists and reads all tokens before it has a sample of them.
        series("expired_seconds_total"): lambda at: at if at < 600 else at - 600,
        LIFE_LEFT: between(0, 600, 0.6, math.nan),
    }
    return [
        Case(
            sentence="a controller that is gone for 20 min",
            courses={UP: between(300, 1500, None, 1)},
            # Prometheus remembers a sample for 5 min where a target goes without a word.
            fires={285 + 300 + 600 - STEP_SECONDS: [], 285 + 300 + 600: [absent], 1485: [absent], 1500: []},
        ),
        Case(
            sentence="a controller that can't be scraped for 20 min",
            courses={UP: between(300, 1500, 0, 1)},
            fires={885: [], 900: [absent], 1485: [absent], 1500: []},
        ),
        Case(sentence="a rollout of 9 min", courses={UP: between(300, 840, 0, 1)}, fires={825: [], 840: []}),
        Case(
            sentence="nothing is installed, or the job has another name",
            courses={UP: constant(None), f'up{{job="other",{POD.partition(",")[2]}}}': constant(1)},
            fires={585: [], 600: [absent]},
        ),
        Case(sentence="a restart", courses=restarted, fires={at: [] for at in (585, 600, 615, 900, 1500)}),
    ]


def _quiet() -> list[Case]:
    bad = {LIFE_LEFT: outage(3600), series("expired_claims"): between(1275, 1e9, 2)}
    other = {name.replace(POD, OTHER_POD): course for name, course in bad.items()}
    two_policies = {
        series("policy_installed", f'policy="{name}"', pod=pod): constant(0)
        for name in ("own-writes", "other-name")
        for pod in (POD, OTHER_POD)
    }
    once = ["PullSecretExpired", "PullSecretLifeCritical", "PullSecretLifeLow"]
    empty = {
        LIFE_LEFT: constant(math.nan),
        series("expired_claims"): constant(0),
        series("issuer_clock_skew_seconds", 'provider="chainguard"'): constant(math.nan),
        series("oldest_unfilled_seconds"): constant(0),
        series("oldest_overdue_seconds"): constant(0),
        series("policy_installed", 'policy="pull-secret-updater-own-writes"'): constant(1),
    }
    gap = {LIFE_LEFT: lambda at: None if 420 <= at < 480 else max(0.0, 0.35 - at / 3600), UP: between(420, 480, 0, 1)}
    failover = {UP: between(600, 1e9, None, 1), f"up{{{OTHER_POD}}}": between(620, 1e9, 1, None)}
    return [
        Case(sentence="two replicas, both of which see it, count once", courses={**bad, **other}, fires={1800: once}),
        Case(
            sentence="two policies that are missing are two alerts, however many replicas look",
            courses=two_policies,
            fires={585: [], 600: ["PullSecretUpdaterPolicyMissing"] * 2},
        ),
        Case(sentence="a cluster without Secrets", courses=empty, fires={900: [], 3600: []}),
        # The sample before the gap is good for 5 min, so the alert comes when it would have come.
        Case(sentence="a gap of a minute in the scrapes", courses=gap, fires={420: [], 450: ["PullSecretLifeLow"]}),
        Case(
            sentence="a failover of 20 s to another replica",
            courses=failover,
            fires={600: [], 630: [], 1500: []},
        ),
    ]


def _recorded() -> list[Case]:
    def mints(result: str) -> str:
        return series("mints_total", f'provider="p",result="{result}"')

    expired = "sum without (job) (job:pull_secret_updater_expired_seconds:increase1h)"
    fails = "sum without (job, provider) (provider:pull_secret_updater_mints_failing:ratio_rate15m)"
    return [
        Case(
            sentence="seconds without a valid token are recorded by the hour, of two Pods together",
            courses={
                series("expired_seconds_total"): growing(0.5),
                series("expired_seconds_total", pod=OTHER_POD): growing(0.25),
            },
            values={7200: {expired: 2700}},
        ),
        Case(
            sentence="the share of failing mints is recorded, and throttled ones are none of them",
            courses={
                mints("Minted"): growing(0.2),
                mints("TokenUnfit"): growing(0.1),
                mints("IssuerThrottles"): growing(0.1),
            },
            values={1800: {fails: 0.25}},
        ),
    ]


CASES = {case.sentence: case for case in _cases()}
