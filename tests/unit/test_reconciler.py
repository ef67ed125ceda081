"""One run for one claim: what it returns is the instant to look again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controller.core.model import Key
from tests.unit.engine import NAME, Engine, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.queues import deadline
from tests.unit.virtual_time import Clock

KEY = Key("team-a", NAME, "")


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


def due_at(engine: Engine) -> float | None:
    assert engine.controller is not None
    return deadline(engine.controller._queues["chainguard"], KEY)


async def test_a_refused_mint_is_looked_at_again_in_a_slow_step_and_an_outage_in_a_fast_one(engine: Engine) -> None:
    engine.ask("team-a")
    for status, least, most in ((403, 15, 30), (503, 0.5, 1.0)):
        engine.issuer.heal()
        engine.issuer.fail(status)
        async with engine.running():
            at = due_at(engine)
            assert at is not None
            assert least - 0.01 <= at - engine.clock() <= most


async def test_while_a_token_is_in_place_no_step_is_longer_than_an_eighth_of_what_is_left(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.issuer.fail(403)
        await asyncio.sleep(0.66 * HOUR)
        asked = [exchange.at for exchange in engine.issuer.requests]
        while engine.clock() < engine.expiry("team-a") - 60:
            before = len(engine.issuer.requests)
            left = engine.expiry("team-a") - engine.clock()
            await asyncio.sleep(left / 8 + 1)
            assert len(engine.issuer.requests) > before
        assert len(engine.issuer.requests) - len(asked) < 60


async def test_an_outage_is_told_on_the_secret_only_when_most_of_the_life_is_gone(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.issuer.fail(503)
        await asyncio.sleep(0.78 * HOUR)
        assert engine.annotation("team-a", "error") is None
        assert engine.told("team-a") == []
        await asyncio.sleep(0.05 * HOUR)
        assert engine.told("team-a") == ["IssuerUnavailable"]
        assert engine.patches == 2
        await asyncio.sleep(2 * HOUR)
        assert engine.patches == 2


async def test_a_refusal_is_told_at_once_although_the_token_in_place_is_good(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.issuer.fail(403)
        await asyncio.sleep(0.66 * HOUR)
        assert engine.told("team-a") == ["MintRefused"]
        assert engine.password("team-a") == engine.issuer.minted[0]


async def test_an_error_whose_reason_changes_is_told_anew(engine: Engine) -> None:
    engine.issuer.fail(403, times=1)
    engine.issuer.fail(404)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        assert engine.told("team-a") == ["MintRefused", "IdentityUnknown"]
        assert (engine.annotation("team-a", "error") or "").startswith("IdentityUnknown: ")
        assert engine.patches == 2


async def test_a_token_that_was_written_is_told_when_it_is_the_first_of_an_identity_alone(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(3 * HOUR)
        engine.annotate("team-a", refresh="1")
        await asyncio.sleep(1)
        assert [(event["reason"], event["count"]) for event in engine.api.events] == [("TokenWritten", 1)]
        engine.annotate("team-a", identity=identity(2))
        await asyncio.sleep(1)
        assert [(event["reason"], event["count"]) for event in engine.api.events] == [("TokenWritten", 2)]


async def test_one_patch_is_all_that_a_fill_costs_and_a_read_where_others_have_entries(engine: Engine) -> None:
    engine.ask("team-a")
    engine.ask("team-b", config={"auths": {"https://cgr.dev/v1/": {}, "cgr.dev": {}}})
    engine.ask("team-c", config={"auths": {"quay.io": {}}})
    async with engine.running():
        verbs = {
            team: [request.verb for request in engine.api.requests if request.namespace == team]
            for team in ("team-a", "team-b", "team-c")
        }
    assert verbs["team-a"][:1] == ["patch"]
    assert verbs["team-c"][:2] == ["get", "patch"]
    assert list(engine.api.config("team-b", NAME)["auths"]) == ["cgr.dev"]


async def test_a_failure_that_comes_again_after_a_success_is_told_again(engine: Engine) -> None:
    """Within the ten minutes in which who removes `error` isn't told once more."""
    engine.issuer.lifetime_seconds = 300
    engine.issuer.fail(403, times=1)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(31)
        assert engine.annotation("team-a", "error") is None
        engine.issuer.fail(403)
        await asyncio.sleep(0.65 * 300)
        assert (engine.annotation("team-a", "error") or "").startswith("MintRefused: ")
        [count] = [event["count"] for event in engine.api.events if event["type"] == "Warning"]
        assert count == 2


async def test_a_refresh_that_has_to_look_twice_is_late_once(engine: Engine) -> None:
    released = engine.issuer.hang()
    engine.ask("team-a")
    async with engine.running():
        engine.api.merge_patch("team-a", NAME, {"metadata": {"labels": {"a": "b"}}})
        released.set()
        await engine.settle()
        assert engine.password("team-a")
        assert engine.metric("refresh_lateness_seconds_count") == 1


async def test_a_write_that_meets_another_is_a_conflict_in_the_metrics_and_no_failure(engine: Engine) -> None:
    released = engine.issuer.hang()
    engine.ask("team-a")
    async with engine.running():
        engine.api.mute_watches()
        engine.api.merge_patch("team-a", NAME, {"metadata": {"labels": {"a": "b"}}})
        released.set()
        await engine.settle()
        assert engine.password("team-a")
        results = {
            result: engine.metric("refreshes_total", provider="chainguard", result=result, reason="new")
            for result in ("written", "conflict", "failed", "refused", "unchanged")
        }
    assert results == {"written": 1, "conflict": 1, "failed": 0, "refused": 0, "unchanged": 0}
