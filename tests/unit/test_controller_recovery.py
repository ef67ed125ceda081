"""A claim without a valid token is the most urgent state there is: it is filled as soon as its issuer lets us."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from controller.config import Limits
from tests.unit.engine import Engine, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


async def until_valid(engine: Engine, numbers: range) -> float:
    """The seconds until each of these Secrets holds a valid token."""
    began = engine.clock()
    while any(engine.expiry(f"team-{number}") <= engine.clock() for number in numbers):
        await asyncio.sleep(0.1)
        assert engine.clock() < began + 2 * HOUR
    return engine.clock() - began


async def until_filled(engine: Engine, numbers: range) -> None:
    """Wait until each of these Secrets holds a token."""
    for number in numbers:
        while engine.password(f"team-{number}") is None:  # noqa: ASYNC110 -- in virtual time
            await asyncio.sleep(0.1)


# An expired token.


@pytest.mark.parametrize("lifetime_seconds", [40.0, HOUR])
async def test_an_expired_token_is_retried_at_the_first_step_and_not_after_a_quarter_of_an_hour(
    engine: Engine, lifetime_seconds: float
) -> None:
    engine.issuer.lifetime_seconds = lifetime_seconds
    engine.ask("team-0", 0)
    async with engine.running():
        ends_at = engine.expiry("team-0")
        await asyncio.sleep(lifetime_seconds / 3)
        engine.issuer.fail(403)
        await asyncio.sleep(ends_at + 5 - engine.clock())
        engine.issuer.heal()
        assert await until_valid(engine, range(1)) <= 30


async def test_steps_that_a_short_rest_of_life_shortened_do_not_count_as_attempts(engine: Engine) -> None:
    engine.issuer.lifetime_seconds = 40.0
    engine.ask("team-0", 0)
    async with engine.running():
        engine.issuer.fail(403)
        await asyncio.sleep(38)
        entries = engine.logged("token not minted")
        assert len(entries) >= 5
        assert {entry["attempt"] for entry in entries} == {1}


async def test_without_a_valid_token_no_wait_is_longer_than_a_minute_for_half_an_hour(engine: Engine) -> None:
    engine.ask("team-0", 0)
    engine.issuer.fail(403)
    async with engine.running():
        began = engine.clock()
        await asyncio.sleep(3 * HOUR)
        asked = [exchange.at - began for exchange in engine.issuer.requests]
        gaps = [(later - earlier, later) for earlier, later in itertools.pairwise(asked)]
        assert max(gap for gap, at in gaps if at <= 1800) <= 60.1
        assert max(gap for gap, _ in gaps) > 400, "then it is left to the people who must act"
        assert len(asked) <= 85


# An issuer that is back.


async def test_an_issuer_that_is_back_fills_200_expired_secrets_within_their_rate_and_ten_seconds(
    engine: Engine,
) -> None:
    engine.issuer.lifetime_seconds = 30.0
    for number in range(200):
        engine.ask(f"team-{number}", number)
    async with engine.running():
        await asyncio.sleep(20)
        engine.issuer.fail(None)
        await asyncio.sleep(40)
        engine.issuer.heal()
        assert await until_valid(engine, range(200)) <= 200 / 20 + 10


async def test_two_expired_secrets_are_filled_within_ten_seconds_of_their_issuers_return(engine: Engine) -> None:
    engine.issuer.lifetime_seconds = 30.0
    for number in range(2):
        engine.ask(f"team-{number}", number)
    async with engine.running():
        await asyncio.sleep(10)
        engine.issuer.fail(500)
        await asyncio.sleep(600)
        engine.issuer.heal()
        assert await until_valid(engine, range(2)) <= 10.2


async def test_identities_that_always_fail_are_not_asked_more_often_for_the_success_of_others(engine: Engine) -> None:
    engine.issuer.lifetime_seconds = 60.0
    for number in range(10):
        engine.ask(f"good-{number}", number)
    for number in range(100, 105):
        engine.issuer.fail(500, identity=identity(number))
        engine.ask(f"bad-{number}", number)
    async with engine.running():
        await asyncio.sleep(HOUR / 2)
        for number in range(100, 105):
            assert len(engine.issuer.asked(identity(number))) <= 1800 / 5
        before = len(engine.issuer.asked(identity(100)))
        await asyncio.sleep(HOUR / 2)
        assert len(engine.issuer.asked(identity(100))) - before <= 60 + 5


# Failing identities beside good ones.


def refused(engine: Engine, who: str) -> None:
    engine.issuer.fail(403, identity=who)


def broken(engine: Engine, who: str) -> None:
    engine.issuer.fail(500, identity=who)


def unreachable(engine: Engine, who: str) -> None:
    engine.issuer.fail(None, identity=who)


def malformed(engine: Engine, who: str) -> None:
    engine.issuer.fail(200, body=b"<html>", identity=who)


def hanging(engine: Engine, who: str) -> None:
    engine.issuer.hang(identity=who)


@pytest.mark.parametrize("bad", [refused, broken, unreachable, malformed, hanging])
@pytest.mark.parametrize("later_seconds", [0, 3, 14, 45, 400])
async def test_a_good_identity_behind_60_bad_ones_is_filled_within_5_seconds(
    engine: Engine, bad: Callable[[Engine, str], None], later_seconds: int
) -> None:
    for number in range(100, 160):
        bad(engine, identity(number))
        engine.ask(f"bad-{number}", number)
    async with engine.running():
        await asyncio.sleep(later_seconds)
        engine.ask("team-0", 0)
        assert await until_valid(engine, range(1)) <= 5


# Many at once.


async def test_secrets_that_share_identities_and_are_due_in_the_same_second_cost_one_mint_an_identity(
    engine: Engine,
) -> None:
    engine.issuer.lifetime_seconds = 20.0
    for number in range(1000):
        engine.api.put_secret(
            f"team-{number}",
            "pull-secret",
            annotations={"pull-secret-updater.chainguard.dev/identity": identity(number % 200)},
            config={},
        )
    began = engine.clock()
    async with engine.running():
        await until_filled(engine, range(1000))
        assert engine.clock() - began <= 200 / 20 * 1.1
        assert engine.mints <= 220


async def test_a_token_that_is_old_by_the_time_its_last_secret_is_written_is_written_all_the_same(
    engine: Engine,
) -> None:
    """Each write takes a second, and a token of 20 s is shared for 4 s with who comes new."""
    engine.config = msgspec.structs.replace(engine.config, limits=Limits(write_concurrency=1))
    engine.issuer.lifetime_seconds = 20.0
    engine.api.latency_seconds = 1.0
    for number in range(8):
        engine.ask(f"team-{number}", 1)
    async with engine.running():
        await until_filled(engine, range(8))
        assert engine.mints == 1


async def test_a_valid_tokens_refresh_that_fails_alone_is_tried_no_more_often_because_others_succeed(
    engine: Engine,
) -> None:
    engine.ask("fails", 1)
    async with engine.running():
        await asyncio.sleep(0.6 * HOUR)
        engine.issuer.fail(503, identity=identity(1))
        engine.issuer.lifetime_seconds = 20.0
        engine.ask("works", 2)
        await asyncio.sleep(0.06 * HOUR)
        began, before = engine.clock(), len(engine.issuer.asked(identity(1)))
        await asyncio.sleep(600)
        assert engine.clock() - began < engine.expiry("fails") - began, "it is still valid"
        assert len(engine.issuer.asked(identity(2))) > 50
        assert len(engine.issuer.asked(identity(1))) - before <= 25, "its own pace, and once a minute early"


# The clock.


async def test_after_the_clock_was_set_back_by_5_minutes_tokens_of_a_minute_do_not_expire(
    engine: Engine, clock: Clock
) -> None:
    engine.issuer.lifetime_seconds = 60.0
    for number in range(20):
        engine.ask(f"team-{number}", number)
    async with engine.running():
        await asyncio.sleep(15)
        issuers_clock_ahead = 300.0
        ends = {number: engine.expiry(f"team-{number}") for number in range(20)}
        clock.step(-issuers_clock_ahead)
        await asyncio.sleep(12)
        for number in range(20):
            assert engine.expiry(f"team-{number}") != ends[number], "not replaced within 12 s of the step"
