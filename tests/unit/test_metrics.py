"""Every series is there from the start, and neither metrics nor logs can hold a credential."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import os
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controller import __version__
from controller.core.errors import Problem
from controller.core.model import Reason, Ref
from controller.core.states import State
from controller.observe.counts import SecretState
from controller.observe.eventloop import watch_event_loop
from controller.observe.logs import redact, where
from controller.observe.metrics import MINT_PROBLEMS, RESULTS, Metrics
from tests.unit.fakes import IDENTITY, NO_CLAIMS, jwt, registry_token
from tests.unit.virtual_time import VirtualTimeLoop

PREFIX = "pull_secret_updater_"
Labels = dict[str, str]


@pytest.fixture
def metrics() -> Metrics:
    """As app.py makes it."""
    made = Metrics(providers=["one", "two"], policies=["p", "q"], relist_reasons=["start", "gone"])
    made.watch_states(lambda: NO_CLAIMS, secrets=None)
    made.watch_state(age_seconds=lambda: 1.5, refused=lambda: 0)
    for provider in ("one", "two"):
        made.watch_provider(provider, queue_depth=lambda: 3, circuit_open=lambda: False)
    return made


def samples(metrics: Metrics) -> Iterator[tuple[str, Labels, float]]:
    """What a scrape gives, by Prometheus' own parser."""
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def value(metrics: Metrics, name: str, /, **labels: str) -> float:
    (found,) = [v for n, sample_labels, v in samples(metrics) if (n, sample_labels) == (PREFIX + name, labels)]
    return found


# Metrics.


def test_all_series_exist_from_the_start(metrics: Metrics) -> None:
    found = {(name.removeprefix(PREFIX), tuple(sorted(labels.items()))) for name, labels, _ in samples(metrics)}

    def series(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        return name, tuple(sorted(labels.items()))

    expected = {
        *map(series, ("managed_claims", "secret_expires_timestamp_seconds_min", "expired_claims", "contested_claims")),
        *(
            series("claims", state=state)
            for state in ("valid", "due", "unfilled", "expired", "refused", "contested", "paused")
        ),
        *(series("refused_claims", reason=problem.reason) for problem in Problem),
        *map(series, ("expired_seconds_total", "watch_age_seconds", "life_left_ratio_min")),
        *map(series, ("oldest_unfilled_seconds", "oldest_overdue_seconds")),
        *(series("due_claims", horizon=horizon) for horizon in ("5m", "15m", "60m")),
        *(series("issuer_clock_skew_seconds", provider=provider) for provider in ("one", "two")),
        *(series(f"{name}_count") for name in ("replaced_life_left_ratio", "event_loop_hold_seconds")),
        *map(series, ("mint_duration_seconds_count", "mint_duration_seconds_sum")),
        *map(series, ("refresh_lateness_seconds_count", "refresh_lateness_seconds_sum")),
        *(series("policy_installed", policy=policy) for policy in "pq"),
        *(series("relists_total", reason=reason) for reason in ("start", "gone")),
    }
    for provider in ("one", "two"):
        expected |= {series("queue_depth", provider=provider), series("circuit_open", provider=provider)}
        expected |= {
            series("refreshes_total", provider=provider, result=result, reason=reason)
            for result in ("written", "unchanged", "conflict", "failed", "refused")
            for reason in ("new", "identity", "edited", "requested", "scheduled", "expired")
        }
        expected |= {
            series("mints_total", provider=provider, result=result)
            for result in ("Minted", "MintRefused", "IssuerUnavailable", "IssuerThrottles", "TokenUnfit", "Unexpected")
        }
    assert expected - found == set()


def test_the_version_that_runs_is_a_metric(metrics: Metrics) -> None:
    assert value(metrics, "build_info", version=__version__) == 1


def test_nothing_that_is_counted_adds_a_series(metrics: Metrics) -> None:
    before = {(name, *labels.items()) for name, labels, _ in samples(metrics)}
    for provider in ("one", "two"):
        for problem in (None, *MINT_PROBLEMS):
            metrics.minted(provider, problem, 0.1)
        for result in RESULTS:
            for reason in Reason:
                metrics.refreshed(provider, result, reason)
    metrics.begun(0.1)
    metrics.replaced(0.4)
    metrics.held(0.01)
    metrics.clock_skew("one", -3.0)
    metrics.relisted("gone")
    metrics.policy_installed("p", True)
    assert {(name, *labels.items()) for name, labels, _ in samples(metrics)} == before


def test_every_problem_that_a_mint_can_have_is_a_result() -> None:
    """The rest is found in the Secret, by the policy, or by the API server."""
    elsewhere = {problem for problem in Problem if problem.pace.value == "on change"}
    writes = {Problem.WRITE_REFUSED, Problem.WRITE_FAILS, Problem.FIGHT}
    targets = {Problem.SECRET_NOT_WATCHED, Problem.TARGET_CONFLICT, Problem.TARGET_CONTESTED, Problem.TARGET_KEPT}
    grants = {Problem.GRANT_REVOKED, Problem.GRANT_UNCLEAR, Problem.MINTS_LIMITED}
    assert set(MINT_PROBLEMS) == set(Problem) - elsewhere - writes - targets - grants


def test_what_happens_is_counted_where_it_belongs(metrics: Metrics) -> None:
    metrics.minted("one", None, 0.2)
    metrics.minted("one", Problem.MINT_REFUSED, 0.3)
    metrics.refreshed("two", "written", Reason.SCHEDULED)
    metrics.relisted("gone")
    metrics.policy_installed("p", True)
    metrics.begun(2.0)
    assert value(metrics, "mints_total", provider="one", result="Minted") == 1
    assert value(metrics, "mints_total", provider="one", result="MintRefused") == 1
    assert value(metrics, "mints_total", provider="two", result="Minted") == 0
    assert value(metrics, "mint_duration_seconds_sum") == pytest.approx(0.5)
    assert value(metrics, "refreshes_total", provider="two", result="written", reason="scheduled") == 1
    assert value(metrics, "relists_total", reason="gone") == 1
    assert value(metrics, "policy_installed", policy="p") == 1
    assert value(metrics, "policy_installed", policy="q") == 0
    assert value(metrics, "refresh_lateness_seconds_sum") == 2.0


def test_who_is_early_by_a_rounding_is_not_late_by_less_than_nothing(metrics: Metrics) -> None:
    metrics.begun(-0.001)
    assert value(metrics, "refresh_lateness_seconds_sum") == 0.0
    assert value(metrics, "refresh_lateness_seconds_count") == 1


def test_queue_and_circuit_are_read_at_every_scrape(metrics: Metrics) -> None:
    now = {"depth": 7, "open": True}
    metrics.watch_provider("one", queue_depth=lambda: now["depth"], circuit_open=lambda: bool(now["open"]))
    assert value(metrics, "queue_depth", provider="one") == 7
    assert value(metrics, "circuit_open", provider="one") == 1
    now["open"] = False
    assert value(metrics, "circuit_open", provider="one") == 0


def test_the_earliest_expiry_of_nothing_is_not_a_number(metrics: Metrics) -> None:
    assert math.isnan(value(metrics, "secret_expires_timestamp_seconds_min"))


def test_without_a_token_no_share_is_left_that_an_alert_could_take_for_little(metrics: Metrics) -> None:
    assert math.isnan(value(metrics, "life_left_ratio_min"))


def test_the_clock_of_an_issuer_that_was_never_asked_is_not_taken_for_right(metrics: Metrics) -> None:
    assert math.isnan(value(metrics, "issuer_clock_skew_seconds", provider="one"))
    metrics.clock_skew("one", -7.5)
    assert value(metrics, "issuer_clock_skew_seconds", provider="one") == -7.5


async def test_whatever_holds_the_event_loop_across_a_timer_is_told(event_loop_held: list[float]) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    await asyncio.sleep(1.9)
    assert event_loop_held == [0.0]
    loop.hold(0.4)
    await asyncio.sleep(1)
    assert event_loop_held == [0.0, pytest.approx(0.3)]


@pytest.fixture
async def event_loop_held() -> AsyncIterator[list[float]]:
    holds: list[float] = []
    watching = asyncio.create_task(watch_event_loop(holds.append))
    yield holds
    watching.cancel()


def test_claims_are_counted_at_every_scrape_and_the_series_of_a_secret_goes_with_it() -> None:
    metrics = Metrics(providers=[], policies=[], relist_reasons=[])
    now = [
        dataclasses.replace(
            NO_CLAIMS,
            states=dict.fromkeys(State, 0) | {State.VALID: 4, State.EXPIRED: 1, State.CONTESTED: 2},
            problems=dict.fromkeys(Problem, 0) | {Problem.FIGHT: 3, Problem.MINT_REFUSED: 1},
            expired_seconds=5.5,
            earliest_expiry=100.0,
            least_life_left=0.4,
            oldest_unfilled_seconds=121.0,
            oldest_overdue_seconds=302.0,
            due_within={300: 1, 900: 2, 3600: 3},
        ),
        dataclasses.replace(NO_CLAIMS, expired_seconds=6.0),
    ]
    secrets = [SecretState(Ref("n", 'a"\\\n'), 100.0, False), SecretState(Ref("n", "b"), None, True)]
    metrics.watch_states(lambda: now[0], secrets=lambda: secrets)
    assert value(metrics, "managed_claims") == 7
    assert value(metrics, "claims", state="valid") == 4
    assert value(metrics, "claims", state="due") == 0
    assert value(metrics, "expired_claims") == 1
    assert value(metrics, "contested_claims") == 3
    assert value(metrics, "refused_claims", reason="MintRefused") == 1
    assert value(metrics, "expired_seconds_total") == 5.5
    assert value(metrics, "secret_expires_timestamp_seconds_min") == 100
    assert value(metrics, "life_left_ratio_min") == 0.4
    assert value(metrics, "oldest_unfilled_seconds") == 121
    assert value(metrics, "oldest_overdue_seconds") == 302
    assert [value(metrics, "due_claims", horizon=horizon) for horizon in ("5m", "15m", "60m")] == [1, 2, 3]
    assert value(metrics, "secret_expires_timestamp_seconds", namespace="n", name='a"\\\n') == 100
    assert value(metrics, "secret_ready", namespace="n", name='a"\\\n') == 0
    assert value(metrics, "secret_ready", namespace="n", name="b") == 1
    del now[0], secrets[0]
    assert value(metrics, "expired_seconds_total") == 6.0
    assert not [name for name, _, _ in samples(metrics) if name == PREFIX + "secret_expires_timestamp_seconds"]
    assert len([name for name, _, _ in samples(metrics) if name == PREFIX + "secret_ready"]) == 1


def test_two_controllers_in_one_process_share_no_metric() -> None:
    one, two = (Metrics(providers=["p"], policies=[], relist_reasons=[]) for _ in range(2))
    one.minted("p", None, 0.1)
    assert value(two, "mints_total", provider="p", result="Minted") == 0


# Redaction.

LONG = "Zm9vYmFy" * 10


@pytest.mark.parametrize(
    "credential",
    [
        registry_token(),
        registry_token().rpartition(".")[0],
        jwt(a=1),
        "eyJhbGciOiJSUzI1NiJ9",
        LONG,
        LONG + "==",
        "ghs_" + "A1b2" * 20,
        "AQoDYXdzEJr" + "a/b+" * 40,
    ],
)
@pytest.mark.parametrize("around", ["{}", "Bearer {}", "a: {}, b", '{{"token":"{}"}}', "https://h/p?token={}&x=y"])
def test_what_may_be_a_credential_is_not_shown(credential: str, around: str) -> None:
    shown = redact(around.format(credential))
    assert "[redacted]" in shown
    pieces = [credential[start : start + 12] for start in range(0, len(credential) - 12, 12)]
    assert [piece for piece in pieces if piece in shown] == []


@pytest.mark.parametrize(
    "harmless",
    [
        "",
        "a Secret was refreshed",
        IDENTITY,
        f"{IDENTITY}/0123456789abcdef/0123456789abcdef",
        f"identity {IDENTITY} is unknown",
        "arn:aws:iam::123456789012:role/team-a/puller",
        "puller@project.iam.gserviceaccount.com",
        "12345678-1234-1234-1234-123456789012/12345678-1234-1234-1234-123456789012",
        "2026-01-02T03:04:05Z",
        "team-a/pull-secret",
        "system:serviceaccount:pull-secret-updater:controller",
        "pull-secret-updater.chainguard.dev/identity",
    ],
)
def test_what_people_need_to_see_is_shown(harmless: str) -> None:
    assert redact(harmless) == harmless


@pytest.mark.parametrize("piece", ["a", "0", "a.", "eyJ", "0123456789abcdef/", "a/-", "eyJ "])
def test_a_long_text_is_redacted_in_no_time(piece: str) -> None:
    """Whoever may annotate a Secret writes 256 KiB of it, and the event loop would stand still meanwhile."""
    began = time.process_time()
    redact(piece * (32768 // len(piece)) + "g")
    redact(piece * (32768 // len(piece)))
    assert time.process_time() - began < 0.2


# Where an exception came from.


def fail(text: str) -> None:
    nothing: dict[str, str] = {}
    try:
        nothing[text]
    except KeyError as error:
        raise ValueError(text) from error


def caught(text: str) -> BaseException:
    try:
        fail(text)
    except ValueError as error:
        return error
    raise AssertionError


def test_an_exception_is_told_by_class_and_place_without_its_words() -> None:
    error = caught("a-secret-canary")
    places = where(error)
    first = traceback.extract_tb(error.__traceback__)[-1]
    assert places[0] == f"ValueError at test_metrics.py:{first.lineno}"
    assert places[1].startswith("KeyError at test_metrics.py:")
    assert "canary" not in repr(places)


def test_an_exception_that_was_never_raised_has_no_place() -> None:
    assert where(ValueError("a-secret-canary")) == ["ValueError"]


def test_a_chain_that_never_ends_is_cut() -> None:
    one, two = ValueError(), ValueError()
    one.__cause__, two.__cause__ = two, one
    assert len(where(one)) == 5


# Logs, as a process prints them.

PROGRAM = """
import asyncio, json, logging, sys, warnings
from controller.observe.logs import configure_logging

CANARY = "a-secret-canary"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhLXNlY3JldC1jYW5hcnkifQ.c2lnbmF0dXJlc2lnbmF0dXJl"
log = configure_logging(log_format=sys.argv[1], level="info")

class Thing:
    def __str__(self):
        return TOKEN

def fail():
    raise ValueError(CANARY)

log.info("plain", number=1, nothing=None, yes=True, text="shown")
log.debug("below the level", text="hidden")
log.info("token in a field", token=TOKEN)
log.info("token in the event " + TOKEN)
log.info("token in a thing", thing=Thing())
log.info("token in a list", things=[TOKEN, {"a": TOKEN}], things_by_name={"x": [TOKEN], TOKEN: 1})
try:
    fail()
except ValueError as error:
    log.exception("structlog exception")
    log.error("structlog exc_info", exc_info=error)
    log.error("structlog tuple", exc_info=sys.exc_info())
    log.error("structlog value", problem=error)
    logging.getLogger("vendor").exception("stdlib exception")
    logging.getLogger("vendor").error("stdlib exc_info", exc_info=error)
    logging.getLogger("vendor").error("stdlib argument: %s", error)
    logging.getLogger("vendor").error("stdlib stack", stack_info=True, exc_info=True)
logging.getLogger("vendor").warning("stdlib token %s", TOKEN)
logging.getLogger("vendor").info("below the level of libraries")
logging.getLogger("vendor").warning("two\\nlines")

async def forgotten():
    fail()

async def main():
    task = asyncio.create_task(forgotten())
    await asyncio.sleep(0)
    del task
    import gc
    gc.collect()
    asyncio.get_running_loop().call_soon(fail)
    await asyncio.sleep(0)

asyncio.run(main())
log.info("the end")
"""


def printed(log_format: str) -> str:
    """What a process of ours prints on standard error."""
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), log_format],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout == ""
    return ended.stderr


@pytest.fixture(scope="module")
def json_output() -> str:
    return printed("json")


@pytest.fixture(scope="module")
def console_output() -> str:
    return printed("console")


@pytest.fixture(scope="module")
def entries(json_output: str) -> dict[str, dict[str, Any]]:
    """By event; each line must be one object."""
    return {entry["event"]: entry for entry in map(json.loads, json_output.splitlines())}


def test_every_line_is_one_json_object_with_time_level_and_event_first(json_output: str) -> None:
    for line in json_output.splitlines():
        assert list(json.loads(line))[:3] == ["timestamp", "level", "event"]


def test_fields_keep_their_types(entries: dict[str, dict[str, Any]]) -> None:
    plain = entries["plain"]
    assert (plain["number"], plain["nothing"], plain["yes"], plain["text"]) == (1, None, True, "shown")
    assert plain["level"] == "info"


def test_what_is_below_the_level_is_not_printed(json_output: str) -> None:
    assert "below" not in json_output
    assert "the end" in json_output


@pytest.mark.parametrize("output", ["json_output", "console_output"])
def test_no_token_is_printed_wherever_it_stands(output: str, request: pytest.FixtureRequest) -> None:
    assert "eyJ" not in request.getfixturevalue(output)


@pytest.mark.parametrize("output", ["json_output", "console_output"])
def test_no_exception_text_is_printed_wherever_it_comes_from(output: str, request: pytest.FixtureRequest) -> None:
    text: str = request.getfixturevalue(output)
    ours = [line for line in text.splitlines() if "a-secret-canary" in line and "stdlib argument" not in line]
    assert ours == []


@pytest.mark.parametrize(
    "event", ["structlog exception", "structlog exc_info", "structlog tuple", "stdlib exception", "stdlib exc_info"]
)
def test_an_exception_is_logged_by_class_and_place(entries: dict[str, dict[str, Any]], event: str) -> None:
    assert entries[event]["error"][0].startswith("ValueError at <string>:")
    assert entries[event]["level"] == "error"


def test_the_console_has_the_same_events(console_output: str, entries: dict[str, dict[str, Any]]) -> None:
    for event in ("plain", "structlog exception", "stdlib exception", "the end"):
        assert event in entries
        assert event in console_output
