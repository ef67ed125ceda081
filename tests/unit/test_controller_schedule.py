"""When tokens are renewed: well before their end, by what is left of them, whatever the clock does (S1 to S9)."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from tests.unit.engine import Engine, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock

MINUTE = 60.0


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


async def test_a_token_is_renewed_between_50_and_65_percent_of_its_life_for_a_day(engine: Engine) -> None:
    for number in range(3):
        engine.ask(f"team-{number}", number)
    async with engine.running():
        left_least = HOUR
        for _ in range(24 * 6):
            await asyncio.sleep(10 * MINUTE)
            left = [engine.expiry(f"team-{number}") - engine.clock() for number in range(3)]
            left_least = min(left_least, *left)
            engine.check_deadlines()
    assert left_least > 0.35 * HOUR - 1
    gaps: list[float] = []
    for number in range(3):
        asked = [exchange.at for exchange in engine.issuer.asked(identity(number))]
        gaps += [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert min(gaps) >= 0.50 * HOUR - 1
    assert max(gaps) <= 0.65 * HOUR + 1
    assert engine.mints == engine.patches
    assert 3 * 24 / 0.65 <= engine.mints <= 3 * (24 / 0.50 + 1)


@pytest.mark.parametrize("lifetime_seconds", [2.0, 5.0, 20.0, 15 * MINUTE])
async def test_a_short_token_is_renewed_before_its_end_and_never_in_a_hot_loop(
    engine: Engine, lifetime_seconds: float
) -> None:
    """external-secrets #6690; S7: at most one mint in the lesser of 10 s and half of a life."""
    engine.issuer.lifetime_seconds = lifetime_seconds
    engine.ask("team-a")
    async with engine.running():
        for _ in range(100):
            await asyncio.sleep(lifetime_seconds / 10)
            assert engine.expiry("team-a") > engine.clock()
    # Instants are whole seconds, so a deadline may come up to a second earlier than the shares say.
    assert engine.mints <= 2 + 10 * lifetime_seconds / max(1.0, min(10.0, lifetime_seconds / 2) - 1)


async def test_a_token_with_5_of_60_minutes_left_is_renewed_by_what_is_left(engine: Engine) -> None:
    """T6, S7: the issuer hands out what it minted 55 minutes ago."""
    engine.issuer.lifetime_seconds = 5 * MINUTE
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(2.4 * MINUTE)
        assert engine.mints == 1
        await asyncio.sleep(1 * MINUTE)
    assert engine.mints == 2


async def test_the_same_token_again_is_not_written_and_asked_anew_after_half_of_what_is_left(engine: Engine) -> None:
    engine.issuer.again = True
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(HOUR - 1)
        asked = [exchange.at for exchange in engine.issuer.requests]
        assert engine.patches == 1
        assert engine.metric("refreshes_total", provider="chainguard", result="unchanged", reason="scheduled") > 0
    end = asked[0] + HOUR
    for earlier, later in itertools.pairwise(asked[1:]):
        assert later - earlier >= min((end - earlier) / 2, 10) - 1
    assert len(asked) <= 12


async def test_an_issuer_that_hands_the_same_token_out_is_asked_at_its_end_at_the_latest(engine: Engine) -> None:
    """Half of what is left, but never under 10 s, would be after it."""
    engine.issuer.lifetime_seconds = MINUTE
    engine.issuer.again = True
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(MINUTE - 0.5)
        engine.issuer.again = False
        await asyncio.sleep(1.5)
        assert engine.password("team-a") == engine.issuer.minted[1]


async def test_a_shorter_token_is_not_written_for_the_clocks_sake(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.issuer.lifetime_seconds = 10 * MINUTE
        await asyncio.sleep(0.66 * HOUR)
        first = engine.issuer.minted[0]
        assert engine.mints >= 2
        assert engine.password("team-a") == first
        engine.issuer.lifetime_seconds = HOUR
        await asyncio.sleep(0.2 * HOUR)
        assert engine.password("team-a") == engine.issuer.minted[-1]


async def test_an_issuers_outage_of_a_third_of_the_life_expires_nothing(engine: Engine) -> None:
    """F27, at the worst moment for each: it begins when a token is due."""
    for number in range(24):
        engine.ask(f"team-{number}", number)
    async with engine.running():
        await asyncio.sleep(0.5 * HOUR)
        engine.issuer.fail(503)
        before = engine.patches
        await asyncio.sleep(0.29 * HOUR)
        assert engine.patches == before, "an outage must not rewrite Secrets whose tokens are good for long"
        assert engine.metric("circuit_open", provider="chainguard") == 1
        assert not [entry for number in range(24) for entry in engine.told(f"team-{number}")]
        await asyncio.sleep(HOUR / 3 - 0.29 * HOUR)
        engine.issuer.heal()
        await asyncio.sleep(40)
        assert all(engine.expiry(f"team-{number}") > engine.clock() + 0.9 * HOUR for number in range(24))
        assert engine.metric("expired_seconds_total") == 0


async def test_an_outage_of_two_lives_is_made_good_within_half_a_minute(engine: Engine) -> None:
    """F28: nothing is written but `error`, once, and all are valid again soon after."""
    for number in range(10):
        engine.ask(f"team-{number}", number)
    async with engine.running():
        await asyncio.sleep(60)
        engine.issuer.fail(None)
        before, tokens = engine.patches, [engine.password(f"team-{number}") for number in range(10)]
        await asyncio.sleep(2 * HOUR)
        assert tokens == [engine.password(f"team-{number}") for number in range(10)]
        assert engine.patches == before + 10
        assert engine.mints < 10 * 2 * 60, "not more than a request a minute per identity"
        engine.issuer.heal()
        await asyncio.sleep(90)
        assert all(engine.expiry(f"team-{number}") > engine.clock() for number in range(10))
        assert not any(engine.annotation(f"team-{number}", "error") for number in range(10))


async def test_a_failed_mint_never_touches_the_credential(engine: Engine) -> None:
    """T7; upmc registry-creds wrote {} on failure."""
    engine.ask("team-a")
    bodies = (b"", b"{}", b'{"token": ""}', b"<html>", b'{"token": "x y"}', b"\xff\xfe", b'{"token": "a.b.c"}')
    async with engine.running():
        before = engine.api.secret("team-a", "pull-secret")["data"]
        await asyncio.sleep(0.49 * HOUR)
        answers = [*((status, b"") for status in (401, 403, 404, 429, 500)), *((200, body) for body in bodies)]
        for status, body in answers:
            engine.issuer.heal()
            engine.issuer.fail(status, body=body)
            engine.annotate("team-a", refresh=f"{status}{body.hex()}")
            await asyncio.sleep(5)
            assert engine.api.secret("team-a", "pull-secret")["data"] == before, (status, body)
        assert engine.mints > len(answers)


async def test_a_step_of_the_clock_is_seen_within_10_seconds(engine: Engine) -> None:
    """S4, F19, F20: a suspended machine, or a clock that was wrong."""
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        engine.clock.step(3 * HOUR)
        await asyncio.sleep(10.001)
        assert engine.mints == 2
        assert engine.expiry("team-a") > engine.clock()


async def test_a_clock_that_was_set_back_an_hour_holds_up_no_mint(engine: Engine) -> None:
    """F19."""
    engine.ask("team-a", 1)
    async with engine.running():
        await asyncio.sleep(60)
        engine.clock.step(-HOUR)
        engine.ask("team-b", 2)
        await asyncio.sleep(10)
        assert engine.password("team-b") is not None


async def test_after_the_clock_was_set_back_an_hour_every_token_is_still_renewed_in_time(engine: Engine) -> None:
    """F19: what was minted by the fast clock says that it was issued in the future, so it is replaced once."""
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        engine.clock.step(-HOUR)
        engine.api.merge_patch("team-a", "pull-secret", {"metadata": {"labels": {"any": "change"}}})
        for _ in range(3 * 60):
            await asyncio.sleep(60)
            assert engine.expiry("team-a") > engine.clock()
            engine.check_deadlines()
        assert engine.patches <= 1 + 3 / 0.5 + 2
        assert engine.mints <= 1 + 3 / 0.5 + 2


async def test_a_failure_from_before_the_clock_was_set_back_is_not_remembered_for_an_hour(engine: Engine) -> None:
    engine.issuer.fail(503)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(1)
        engine.clock.step(-HOUR)
        engine.issuer.heal()
        await asyncio.sleep(120)
        assert engine.password("team-a") is not None


async def test_a_forged_expiry_costs_no_more_than_a_mint(engine: Engine) -> None:
    """S8, TH22: an annotation may shorten a life and never lengthen it."""
    engine.ask("team-a")
    async with engine.running():
        engine.annotate("team-a", expires_at="2036-01-01T00:00:00Z", refresh_at="2036-01-01T00:00:00Z")
        await asyncio.sleep(0.66 * HOUR)
        assert engine.mints == 2
        engine.annotate("team-a", issued_at="2036-01-01T00:00:00Z")
        await engine.settle()
        assert engine.annotation("team-a", "issued-at") != "2036-01-01T00:00:00Z"
        engine.annotate("team-a", expires_at="garbage")
        await engine.settle()
        assert engine.annotation("team-a", "expires-at") != "garbage"
        await asyncio.sleep(60)
    assert engine.mints <= 4
