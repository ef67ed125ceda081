"""How long to wait after a failure (reliability.md W6)."""

from __future__ import annotations

import pytest

from controller.kube.backoff import Backoff


def test_each_wait_is_twice_the_last_up_to_half_a_minute() -> None:
    for draw, factor in ((0.0, 1.0), (0.999999, 2.0)):
        backoff, now, waits = Backoff(lambda draw=draw: draw), 0.0, []  # type: ignore[misc]
        for _ in range(2000):
            waits.append(backoff.seconds(now, retry_after_seconds=None))
            now += waits[-1]
        assert waits[:6] == pytest.approx([factor * step for step in (0.8, 1.6, 3.2, 6.4, 12.8, 15.0)], rel=1e-5)
        assert max(waits) <= 30.0


@pytest.mark.parametrize(("calm", "step"), [(119.0, 1.6), (120.0, 0.8)])
def test_two_calm_minutes_make_the_next_failure_the_first(calm: float, step: float) -> None:
    """Counted from the end of the last wait."""
    backoff = Backoff(lambda: 0.0)
    wait = backoff.seconds(1000.0, retry_after_seconds=None)
    assert backoff.seconds(1000.0 + wait + calm, retry_after_seconds=None) == step


@pytest.mark.parametrize(("asked", "wait"), [(0.0, 0.8), (0.5, 0.8), (7.0, 7.0), (300.0, 300.0), (1e9, 300.0)])
def test_what_the_server_asks_for_is_the_least_wait(asked: float, wait: float) -> None:
    assert Backoff(lambda: 0.0).seconds(0.0, retry_after_seconds=asked) == wait


def test_a_long_wait_that_was_asked_for_is_no_calm_time() -> None:
    backoff = Backoff(lambda: 0.0)
    wait = backoff.seconds(0.0, retry_after_seconds=300.0)
    assert backoff.seconds(wait + 1, retry_after_seconds=None) == 1.6
