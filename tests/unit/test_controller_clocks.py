"""Clocks that disagree: ours, and the issuer's up to ten minutes off (T9), whatever the life of its tokens."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from tests.unit.engine import NAME, Engine
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock


class Off(Clock):
    """Another clock, so many seconds ahead of the first."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self._clock = clock
        self.step(seconds)

    def __call__(self) -> float:
        """Now."""
        return self._clock() + self._offset_seconds


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


@pytest.mark.parametrize(
    ("lifetime_seconds", "offset_seconds"),
    [
        *((300.0, -600.0), (300.0, -280.0), (300.0, -240.0), (300.0, 0.0), (300.0, 240.0), (300.0, 600.0)),
        *((900.0, -600.0), (900.0, 600.0), (HOUR, -600.0), (HOUR, 600.0)),
    ],
)
async def test_a_token_is_renewed_in_time_by_the_issuers_own_clock(
    engine: Engine, lifetime_seconds: float, offset_seconds: float
) -> None:
    """A JWT that seems to end soon may be the newest there is: it must neither be lost sight of nor hot-looped."""
    issuers_clock = Off(engine.clock, offset_seconds)
    engine.issuer._clock = issuers_clock
    engine.issuer.lifetime_seconds = lifetime_seconds
    for number in range(5):
        engine.ask(f"team-{number}", number)
    duration_seconds = 6 * lifetime_seconds
    async with engine.running():
        for _ in range(60):
            await asyncio.sleep(duration_seconds / 60)
            for number in range(5):
                assert engine.expiry(f"team-{number}") > issuers_clock()
            engine.check_deadlines()
    assert engine.mints <= 5 * (2 + duration_seconds / 9)


async def test_a_clock_that_is_set_back_leaves_every_secret_with_a_valid_token(engine: Engine, clock: Clock) -> None:
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        clock.step(-HOUR)
        for _ in range(60):
            await asyncio.sleep(120)
            assert engine.expiry("team-a") > clock()
            engine.check_deadlines()
    assert engine.mints <= 10


async def test_a_clock_that_is_set_back_holds_up_no_retry_beyond_the_next_ten_seconds(
    engine: Engine, clock: Clock
) -> None:
    """A refusal is tried again by the wall clock, and that instant is an hour further away now."""
    engine.issuer.fail(403)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(3 * HOUR)
        engine.issuer.heal()
        clock.step(-HOUR)
        await asyncio.sleep(11)
        assert engine.password("team-a")
    [entry] = engine.logged("the clock was set back")
    assert entry["seconds"] == HOUR


async def test_a_clock_that_is_set_back_holds_up_no_write_that_was_refused(engine: Engine, clock: Clock) -> None:
    engine.api.fail("patch", 403, resource="secrets")
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(1)
        clock.step(-HOUR)
        await asyncio.sleep(11)
        assert engine.password("team-a")


@pytest.mark.parametrize(("seconds", "noticed"), [(0, False), (-4, False), (-6, True), (HOUR, False)])
async def test_a_clock_that_drifts_or_is_set_forward_is_no_clock_that_is_set_back(
    engine: Engine, clock: Clock, seconds: float, noticed: bool
) -> None:
    async with engine.running():
        await asyncio.sleep(60)
        clock.step(seconds)
        await asyncio.sleep(60)
    assert bool(engine.logged("the clock was set back")) is noticed


async def test_after_a_clock_was_set_back_an_event_about_a_refused_refresh_costs_no_request(
    engine: Engine, clock: Clock
) -> None:
    """The request for it is dated in the future now, so what is refused today would seem to be from before it."""
    engine.ask("team-a")
    async with engine.running():
        engine.issuer.fail(403)
        engine.annotate("team-a", refresh="1")
        await asyncio.sleep(1)
        clock.step(-HOUR)
        await asyncio.sleep(11)
        before = engine.mints
        for number in range(20):
            engine.api.merge_patch("team-a", NAME, {"metadata": {"labels": {"n": str(number)}}})
            await asyncio.sleep(0.1)
        assert engine.mints <= before + 1


@pytest.mark.parametrize("ahead", [90, -90, 0])
async def test_the_skew_of_an_issuers_clock_is_read_from_its_answers(engine: Engine, ahead: int) -> None:
    engine.issuer._clock = Off(engine.clock, ahead)
    async with engine.running():
        assert math.isnan(engine.metric("issuer_clock_skew_seconds", provider="chainguard"))
        engine.ask("team-a")
        await engine.settle()
        assert engine.metric("issuer_clock_skew_seconds", provider="chainguard") == pytest.approx(ahead, abs=1)
