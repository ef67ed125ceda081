"""The API server refuses our writes, or isn't there (F3, F17, F32, F34)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.unit.engine import NAME, Engine, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


@pytest.mark.parametrize("status", [403, 422, 413])
async def test_a_refused_write_costs_one_mint_a_step_at_most_and_its_token_is_used_again(
    engine: Engine, status: int
) -> None:
    """F32."""
    engine.api.fail("patch", status, resource="secrets", times=10_000)
    engine.ask("team-a")
    async with engine.running():
        assert (engine.mints, engine.patches) == (1, 1)
        await asyncio.sleep(10)
        assert (engine.mints, engine.patches) == (1, 1)
        assert engine.told("team-a") == ["WriteRefused"]
        for number in range(50):
            engine.api.merge_patch("team-a", NAME, {"metadata": {"labels": {"n": str(number)}}})
            await asyncio.sleep(0.01)
        assert engine.patches == 1, "what isn't an input changes nothing"
        await asyncio.sleep(0.2 * HOUR - 15)
        assert engine.mints == 1, "younger than a fifth of its life, the token is used again"
        assert 2 <= engine.patches <= 8
        await asyncio.sleep(HOUR)
        assert engine.mints <= engine.patches <= 20
        assert engine.told("team-a") == ["WriteRefused"]


async def test_a_refused_write_is_tried_at_once_when_the_inputs_change(engine: Engine) -> None:
    engine.api.fail("patch", 403, resource="secrets")
    engine.ask("team-a", 1)
    async with engine.running():
        engine.annotate("team-a", identity=identity(2))
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.tokens[-1]


async def test_a_write_that_is_allowed_again_happens_by_itself(engine: Engine) -> None:
    engine.api.fail("patch", 403, resource="secrets", times=3)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(240)
        assert engine.password("team-a") == engine.issuer.tokens[0]
        assert engine.mints == 1


@pytest.mark.parametrize("status", [None, 500, 503, 504, 408])
async def test_an_api_server_that_is_down_is_tried_again_with_the_same_token(
    engine: Engine, status: int | None
) -> None:
    engine.api.fail("patch", status, resource="secrets", times=6)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(2)
        assert engine.password("team-a") is None
        await asyncio.sleep(60)
        assert engine.password("team-a") == engine.issuer.tokens[0]
        assert engine.told("team-a") == []
    assert (engine.mints, engine.patches) == (1, 7)


async def test_a_throttled_write_waits_as_long_as_it_was_asked_to(engine: Engine) -> None:
    """F34."""
    engine.api.fail("patch", 429, resource="secrets", retry_after=17)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(16.5)
        assert engine.patches == 1
        await asyncio.sleep(1)
        assert engine.password("team-a") == engine.issuer.tokens[0]


async def test_a_write_whose_answer_was_lost_is_not_made_twice(engine: Engine) -> None:
    """The API server took it and the connection broke: the watch tells, and the token is in place."""
    engine.ask("team-a")
    engine.lose_answers = 1
    async with engine.running():
        await asyncio.sleep(60)
        assert engine.password("team-a") == engine.issuer.tokens[0]
        engine.check_deadlines()
    assert (engine.mints, engine.patches) == (1, 1)


async def test_a_write_that_hangs_is_given_up_and_made_again(engine: Engine) -> None:
    engine.api.fail("patch", 200, resource="secrets", after_seconds=10_000)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(29)
        assert engine.password("team-a") is None
        await asyncio.sleep(3)
        assert engine.password("team-a") == engine.issuer.tokens[0]
    assert engine.mints == 1


async def test_a_read_that_is_refused_is_told_and_nothing_is_overwritten(engine: Engine) -> None:
    foreign = {"auths": {"quay.io": {"auth": "YTpi"}}}
    engine.api.fail("get", 403, resource="secrets", times=3)
    engine.ask("team-a", config=foreign)
    async with engine.running():
        await asyncio.sleep(1)
        assert engine.api.config("team-a", NAME) == foreign
        assert engine.told("team-a") == ["WriteRefused"]
        await asyncio.sleep(300)
        assert set(engine.api.config("team-a", NAME)["auths"]) == {"quay.io", "cgr.dev"}
    assert engine.mints == 1


async def test_a_refused_event_never_fails_a_refresh(engine: Engine) -> None:
    engine.api.fail(None, 403, resource="events", times=1000)
    engine.ask("team-a")
    async with engine.running():
        assert engine.password("team-a")
        await asyncio.sleep(2 * HOUR)
        assert engine.expiry("team-a") > engine.clock()


async def test_what_changed_while_the_watch_was_down_is_found_when_it_is_back(engine: Engine) -> None:
    """F9, F14: add and delete, change and change back: only the last state counts."""
    for number, team in enumerate(("gone", "wiped", "moved", "back")):
        engine.ask(team, number)
    async with engine.running():
        engine.api.fail("watch", None, times=5)
        engine.api.fail("list", None, times=2)
        engine.api.break_off_watches()
        await engine.settle()
        engine.api.delete_secret("gone", NAME)
        engine.set_config("wiped", {})
        engine.annotate("moved", identity=identity(9))
        engine.annotate("back", identity=identity(8))
        engine.annotate("back", identity=identity(3))
        engine.ask("new", 7)
        engine.api.compact()
        await asyncio.sleep(240)
        assert engine.password("wiped")
        assert engine.password("new")
        assert len(engine.issuer.asked(identity(9))) == 1
        assert len(engine.issuer.asked(identity(3))) == 1
        assert not engine.issuer.asked(identity(8))
        assert engine.metric("managed_claims") == 4
