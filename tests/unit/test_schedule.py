"""When a token is refreshed and when a failure is tried again."""

from __future__ import annotations

import statistics
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.errors import Pace
from controller.core.schedule import (
    RETRY_AFTER_CAP_SECONDS,
    Coverage,
    RefreshWindow,
    effective_expiry,
    fraction,
    refresh_at,
    retry_at,
)
from tests.unit.fakes import HOUR, NOW, UID, WINDOW

DAY = 24 * HOUR
uids = st.uuids().map(str)
lifetimes = st.integers(1, 30 * DAY)


# Refreshing.


@given(uids, st.integers(0, 2**33), lifetimes)
def test_refresh_is_always_before_expiry(uid: str, issued_at: int, lifetime: int) -> None:
    at = refresh_at(WINDOW, uid=uid, issued_at=issued_at, expiry=issued_at + lifetime)
    assert issued_at < at < issued_at + lifetime


@pytest.mark.parametrize("lifetime", [1, 2, 3, 4, 10, 19, 20, 21, 59, 60, 900, HOUR, 12 * HOUR, 30 * DAY])
def test_at_every_length_of_a_life_the_refresh_is_before_its_end(lifetime: int) -> None:
    for uid in map(str, range(50)):
        at = refresh_at(WINDOW, uid=uid, issued_at=NOW, expiry=NOW + lifetime)
        assert NOW + lifetime * 0.5 <= at <= NOW + max(lifetime * 0.65, min(10, lifetime / 2))
        assert at < NOW + lifetime


@given(uids, st.integers(30, 30 * DAY))
def test_a_third_of_the_life_is_left_for_an_outage(uid: str, lifetime: int) -> None:
    at = refresh_at(WINDOW, uid=uid, issued_at=NOW, expiry=NOW + lifetime)
    assert NOW + lifetime - at >= lifetime / 3


def test_a_15_minute_token_is_refreshed_within_15_minutes() -> None:
    at = refresh_at(WINDOW, uid=UID, issued_at=NOW, expiry=NOW + 900)
    assert 450 <= at - NOW <= 585


@given(uids, st.integers(0, 2**33), lifetimes)
def test_same_secret_same_refresh_at(uid: str, issued_at: int, lifetime: int) -> None:
    looks = {refresh_at(WINDOW, uid=uid, issued_at=issued_at, expiry=float(issued_at + lifetime)) for _ in range(3)}
    assert len(looks) == 1


def test_the_draw_is_the_same_in_every_release() -> None:
    assert fraction("a", 1) == pytest.approx(0.0221218, abs=1e-7)


def test_another_secret_or_another_token_has_another_moment() -> None:
    def moment(uid: str, issued_at: int) -> float:
        return refresh_at(WINDOW, uid=uid, issued_at=issued_at, expiry=issued_at + HOUR) - issued_at

    assert len({moment("a", NOW), moment("b", NOW), moment("a", NOW + 1)}) == 3


def test_ten_thousand_secrets_of_one_instant_are_spread_over_the_window() -> None:
    shares = [
        (refresh_at(WINDOW, uid=str(uuid.UUID(int=n)), issued_at=NOW, expiry=NOW + HOUR) - NOW) / HOUR
        for n in range(10_000)
    ]
    assert 0.50 <= min(shares) < 0.501
    assert 0.649 < max(shares) <= 0.65
    busiest = max(sum(1 for s in shares if low <= s < low + 0.0015) for low in (0.5 + n * 0.0015 for n in range(100)))
    assert busiest < 150
    assert statistics.mean(shares) == pytest.approx(0.575, abs=0.002)


def test_the_window_is_the_operators() -> None:
    at = refresh_at(RefreshWindow(0.2, 0.2), uid=UID, issued_at=NOW, expiry=NOW + HOUR)
    assert at == NOW + 720


@pytest.mark.parametrize("lifetime", [20, 60, 100, 3600])
def test_no_window_makes_a_refresh_sooner_than_ten_seconds_after_the_issue(lifetime: int) -> None:
    at = refresh_at(RefreshWindow(0.0, 0.0), uid=UID, issued_at=NOW, expiry=NOW + lifetime)
    assert at == NOW + 10


@pytest.mark.parametrize("expiry", [NOW, NOW - 1, NOW - HOUR, 0, -1e18])
def test_an_expiry_before_the_issue_is_a_life_of_nothing(expiry: float) -> None:
    """Forged, or an issuer whose clock is behind: due, but not before it was issued and not in a hot loop."""
    assert NOW <= refresh_at(WINDOW, uid=UID, issued_at=NOW, expiry=expiry) <= NOW + 1


@pytest.mark.parametrize(
    ("expires_at", "credential_exp", "expected"),
    [
        (NOW + HOUR, None, NOW + HOUR),
        (NOW + HOUR, NOW + HOUR, NOW + HOUR),
        (NOW + HOUR, NOW + 60, NOW + 60),
        (NOW + 60, NOW + HOUR, NOW + 60),
        (NOW + 100 * DAY, None, NOW + 12 * HOUR),
        (NOW + 100 * DAY, NOW + 100 * DAY, NOW + 12 * HOUR),
        (NOW + HOUR, 0, 0),
        (NOW - 5, None, NOW - 5),
    ],
)
def test_the_earliest_source_of_an_expiry_wins(expires_at: int, credential_exp: int | None, expected: float) -> None:
    assert effective_expiry(WINDOW, issued_at=NOW, expires_at=expires_at, credential_exp=credential_exp) == expected


# Trying again.


def step(
    attempt: int, pace: Pace, *, spread_by: str = "k", left: float | None = None, missing: float | None = None
) -> float:
    at = retry_at(
        failed_at=NOW,
        attempt=attempt,
        pace=pace,
        spread_by=spread_by,
        coverage=Coverage(None if left is None else NOW + left, None if missing is None else NOW - missing),
    )
    assert at is not None
    return at - NOW


@pytest.mark.parametrize(
    ("pace", "attempt", "longest"),
    [
        *((Pace.FAST, 1, 1), (Pace.FAST, 2, 2), (Pace.FAST, 3, 4), (Pace.FAST, 6, 32), (Pace.FAST, 7, 60)),
        *((Pace.FAST, 8, 60), (Pace.FAST, 100_000, 60)),
        *((Pace.SLOW, 1, 30), (Pace.SLOW, 2, 60), (Pace.SLOW, 5, 480), (Pace.SLOW, 6, 900), (Pace.SLOW, 10**9, 900)),
    ],
)
def test_steps_double_up_to_a_cap_and_are_spread_by_up_to_half_downwards(
    pace: Pace, attempt: int, longest: float
) -> None:
    steps = [step(attempt, pace, spread_by=str(n)) for n in range(300)]
    assert longest / 2 <= min(steps) < longest * 0.52
    assert longest * 0.98 < max(steps) <= longest


@pytest.mark.parametrize("pace", [Pace.FAST, Pace.SLOW])
def test_backoff_at_the_cap_is_still_spread(pace: Pace) -> None:
    assert len({step(50, pace, spread_by=str(n)) for n in range(100)}) == 100
    assert len({step(attempt, pace) for attempt in range(50, 60)}) == 10


def test_the_same_failure_has_the_same_moment_at_every_look() -> None:
    assert len({step(3, Pace.SLOW) for _ in range(5)}) == 1


def test_a_fault_of_the_secret_waits_for_its_change_and_nothing_else() -> None:
    assert retry_at(failed_at=NOW, attempt=1, pace=Pace.ON_CHANGE, spread_by="k", coverage=Coverage(None)) is None
    at = retry_at(
        failed_at=NOW, attempt=1, pace=Pace.ON_CHANGE, spread_by="k", coverage=Coverage(NOW + 9), retry_after_seconds=5
    )
    assert at is None


@pytest.mark.parametrize("left", [8000.0, 800.0, 80.0, 8.0])
def test_while_a_token_is_in_place_no_step_is_longer_than_an_eighth_of_what_is_left(left: float) -> None:
    for attempt in (1, 2, 3, 20):
        assert step(attempt, Pace.SLOW, left=left) <= max(left / 8, 1)
    assert step(20, Pace.SLOW, left=800) == 100


@pytest.mark.parametrize("left", [7.9, 1.0, 0.001])
def test_near_the_end_a_step_is_a_second_and_not_shorter(left: float) -> None:
    assert step(20, Pace.SLOW, left=left) == 1


@pytest.mark.parametrize(("missing", "longest"), [(0, 60), (1, 60), (1799, 60), (1800, 900), (10**6, 900)])
def test_without_a_valid_token_no_step_is_longer_than_a_minute_for_half_an_hour(missing: float, longest: float) -> None:
    steps = [step(20, Pace.SLOW, spread_by=str(n), missing=missing) for n in range(100)]
    assert longest * 0.9 < max(steps) <= longest
    assert step(1, Pace.SLOW, missing=missing) <= 30
    assert step(1, Pace.FAST, missing=missing) <= 1


@pytest.mark.parametrize(
    ("asked", "waited"),
    [(0, 1), (0.5, 1), (1, 1), (2, 2), (7, 7), (299, 299), (300, 300), (301, 300), (1e300, 300), (float("inf"), 300)],
)
@pytest.mark.parametrize("pace", [Pace.FAST, Pace.SLOW])
def test_retry_after_wins_up_to_five_minutes(pace: Pace, asked: float, waited: float) -> None:
    at = retry_at(
        failed_at=NOW, attempt=9, pace=pace, spread_by="k", coverage=Coverage(NOW + 16), retry_after_seconds=asked
    )
    assert at == NOW + waited
    assert waited <= RETRY_AFTER_CAP_SECONDS


@given(
    st.integers(1, 10**6),
    st.sampled_from([Pace.FAST, Pace.SLOW]),
    st.text(),
    st.none() | st.floats(-1e12, 1e12),
    st.none() | st.floats(0, 1e12),
)
def test_a_retry_is_never_in_the_past_nor_later_than_a_quarter_of_an_hour(
    attempt: int, pace: Pace, spread_by: str, left: float | None, retry_after: float | None
) -> None:
    at = retry_at(
        failed_at=NOW,
        attempt=attempt,
        pace=pace,
        spread_by=spread_by.encode("utf-8", "replace").decode(),
        coverage=Coverage(None if left is None else NOW + left),
        retry_after_seconds=retry_after,
    )
    assert at is not None
    assert NOW + 0.5 <= at <= NOW + 900


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"))))
def test_a_draw_is_at_least_zero_and_less_than_one(parts: list[str]) -> None:
    assert 0 <= fraction(*parts) < 1


def test_a_draw_knows_where_one_part_ends_and_the_next_begins() -> None:
    assert fraction("a", "bc") != fraction("ab", "c")
