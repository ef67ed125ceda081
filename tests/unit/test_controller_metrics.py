"""What the metrics promise: no series grows with a token's troubles, and what only grows never shrinks."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from tests.unit.engine import NAME, Engine, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


async def test_every_series_exists_from_the_start_and_none_is_added(engine: Engine) -> None:
    """O4."""
    async with engine.running():
        before = series(engine)
        assert math.isnan(engine.metric("secret_expires_timestamp_seconds_min"))
        engine.issuer.fail(403, identity=identity(1))
        engine.issuer.fail(500, identity=identity(2))
        for number in range(5):
            engine.ask(f"team-{number}", number)
        engine.ask("bad", service_account="")
        await asyncio.sleep(2 * HOUR)
        assert series(engine) == before
        assert engine.metric("managed_claims") == 6
        assert engine.metric("mints_total", provider="chainguard", result="MintRefused") > 1
        assert engine.metric("mints_total", provider="chainguard", result="Minted") > 3
        assert engine.metric("refreshes_total", provider="chainguard", result="written", reason="new") == 3


async def test_seconds_without_a_valid_token_only_ever_grow(engine: Engine) -> None:
    engine.ask("team-a", 1)
    engine.ask("team-b", 2)
    async with engine.running():
        earliest = engine.metric("secret_expires_timestamp_seconds_min")
        assert earliest == engine.expiry("team-a")
        engine.issuer.fail(503)
        await asyncio.sleep(HOUR - 2)
        assert engine.metric("expired_claims") == 0
        assert engine.metric("expired_seconds_total") == 0
        await asyncio.sleep(102)
        assert engine.metric("expired_claims") == 2
        assert engine.metric("expired_seconds_total") == pytest.approx(200, abs=3)
        engine.api.delete_secret("team-a", NAME)
        await engine.settle()
        assert engine.metric("expired_claims") == 1
        assert engine.metric("expired_seconds_total") == pytest.approx(200, abs=3)
        engine.issuer.heal()
        await asyncio.sleep(60)
        assert engine.metric("expired_claims") == 0
        grown = engine.metric("expired_seconds_total")
        assert 200 <= grown <= 265
        await asyncio.sleep(0.3 * HOUR)
        assert engine.metric("expired_seconds_total") == grown


async def test_a_list_that_shows_a_recovery_takes_no_second_back(engine: Engine) -> None:
    """What was expired was replaced while the watch was down, so that only a list tells of it."""
    engine.ask("team-a")
    async with engine.running():
        engine.issuer.fail(503)
        await asyncio.sleep(HOUR + 100)
        before = engine.metric("expired_seconds_total")
        assert before > 90
        engine.api.fail("watch", None)
        engine.api.break_off_watches()
        await engine.settle()
        engine.annotate("team-a", expires_at=None)
        engine.api.compact()
        await asyncio.sleep(10)
        assert len(engine.api.requests_of("list")) == 2
        assert [engine.metric("relists_total", reason=reason) for reason in ("start", "expired", "silent")] == [1, 1, 0]
        assert engine.metric("expired_seconds_total") >= before


async def test_a_paused_secret_is_in_none_of_the_expiry_series(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.annotate("team-a", paused="true")
        await asyncio.sleep(HOUR + 1000)
        assert engine.metric("managed_claims") == 1
        assert engine.metric("expired_claims") == 0
        assert engine.metric("expired_seconds_total") == 0
        assert math.isnan(engine.metric("secret_expires_timestamp_seconds_min"))


async def test_the_time_that_a_secret_was_paused_is_not_counted_afterwards(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.annotate("team-a", paused="true")
        await asyncio.sleep(HOUR + 1000)
        engine.annotate("team-a", paused=None)
        await asyncio.sleep(1)
        assert engine.expiry("team-a") > engine.clock()
        assert engine.metric("expired_seconds_total") < 5


async def test_a_pause_that_is_over_leaves_nothing_behind(engine: Engine) -> None:
    """S9."""
    engine.ask("team-a")
    async with engine.running() as controller:
        engine.annotate("team-a", paused="true")
        await asyncio.sleep(HOUR + 1000)
        engine.annotate("team-a", paused=None)
        await asyncio.sleep(1)
        assert engine.password("team-a") == engine.issuer.minted[1]
        assert controller._states._expired_since == {}


async def test_time_before_this_process_began_is_not_counted(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        pass
    await asyncio.sleep(2 * HOUR)
    async with engine.running():
        await asyncio.sleep(1)
        assert engine.metric("expired_seconds_total") < 5


async def test_a_process_that_starts_shows_how_late_the_overdue_are(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        pass
    await asyncio.sleep(0.9 * HOUR)
    async with engine.running():
        assert engine.metric("refresh_lateness_seconds_count") == 1
        assert 0.24 * HOUR < engine.metric("refresh_lateness_seconds_sum") < 0.41 * HOUR


def series(engine: Engine) -> set[str]:
    lines = generate_latest(engine.metrics.registry).decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith(("#", "process_"))}


async def test_what_may_not_be_written_into_the_secret_is_counted_under_its_reason_all_the_same(engine: Engine) -> None:
    engine.api.fail("patch", 403, resource="secrets", times=10_000)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(1)
        assert engine.annotation("team-a", "error") is None
        assert engine.metric("refused_claims", reason="WriteRefused") == 1
        assert engine.metric("claims", state="refused") == 1
        engine.api.heal()
        await asyncio.sleep(30)
        assert engine.metric("refused_claims", reason="WriteRefused") == 0
        assert engine.metric("claims", state="valid") == 1


async def test_with_a_healthy_issuer_at_least_35_percent_of_a_life_is_left_at_any_time(engine: Engine) -> None:
    for number in range(20):
        engine.ask(f"team-{number}", number)
    async with engine.running():
        least = 1.0
        for _ in range(5 * 60):
            await asyncio.sleep(60)
            least = min(least, engine.metric("life_left_ratio_min"))
        assert 0.345 < least < 0.5, "a minute later than at the refresh"
        refreshes = engine.metric("replaced_life_left_ratio_count")
        assert refreshes > 20 * 7
        assert engine.metric("replaced_life_left_ratio_bucket", le="0.34") == 0
        assert engine.metric("replaced_life_left_ratio_bucket", le="0.5") == refreshes


async def test_an_outage_is_seen_in_the_life_left_and_in_what_is_overdue_before_anything_expires(
    engine: Engine,
) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.issuer.fail(503)
        engine.ask("team-b", 2)
        await asyncio.sleep(0.8 * HOUR)
        assert engine.metric("life_left_ratio_min") == pytest.approx(0.2, abs=0.001)
        assert 0.15 * HOUR <= engine.metric("oldest_overdue_seconds") <= 0.31 * HOUR
        assert engine.metric("oldest_unfilled_seconds") == pytest.approx(0.8 * HOUR, abs=1)
        engine.issuer.heal()
        await asyncio.sleep(60)
        assert engine.metric("oldest_overdue_seconds") == engine.metric("oldest_unfilled_seconds") == 0
        assert engine.metric("replaced_life_left_ratio_bucket", le="0.2") == 1
