"""Killed at any step, the next process finishes the work (F1, F2; Sieve's intermediate states)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.unit.engine import NAME, Engine
from tests.unit.virtual_time import Clock

FOREIGN = {"auths": {"quay.io": {"auth": "YTpi"}}}
STEPS = 60
"""Of the loop, from a cold start to rest; a test below checks that they are enough."""


async def run_for(engine: Engine, steps: int) -> None:
    """Start a controller and kill it after so many steps of the loop."""
    task = asyncio.create_task(engine.start().run(engine.stopping))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_process_is_at_rest_after_so_many_steps(clock: Clock, tmp_path: Path) -> None:
    engine = Engine(clock, tmp_path)
    engine.ask("team-a", config=FOREIGN)
    await run_for(engine, STEPS)
    assert engine.password("team-a")
    assert engine.api.events
    before = len(engine.api.requests)
    async with engine.running():
        pass
    assert {request.verb for request in engine.api.requests[before:]} == {"list", "watch"}


@pytest.mark.parametrize("first", range(0, STEPS, 10))
async def test_killed_at_any_step_the_next_process_finishes(clock: Clock, tmp_path: Path, first: int) -> None:
    for steps in range(first, first + 10):
        engine = Engine(clock, tmp_path)
        engine.ask("team-a", config=FOREIGN)
        await run_for(engine, steps)
        async with engine.running():
            await asyncio.sleep(1)
            assert engine.password("team-a") == engine.issuer.minted[-1], steps
            assert engine.api.config("team-a", NAME)["auths"]["quay.io"] == {"auth": "YTpi"}
        assert engine.mints <= 2, steps
        assert engine.patches <= 2, steps


async def test_killed_twice_at_any_step_the_third_process_finishes(clock: Clock, tmp_path: Path) -> None:
    for steps in range(0, STEPS, 4):
        engine = Engine(clock, tmp_path)
        engine.ask("team-a", config=FOREIGN)
        await run_for(engine, steps)
        await run_for(engine, steps)
        async with engine.running():
            await asyncio.sleep(1)
            assert engine.password("team-a") == engine.issuer.minted[-1], steps
        assert engine.mints <= 3, steps
        assert engine.patches <= 3, steps


async def test_killed_at_any_step_of_a_refresh_the_old_token_is_in_place_or_the_new_one(
    clock: Clock, tmp_path: Path
) -> None:
    for steps in range(0, STEPS, 4):
        engine = Engine(clock, tmp_path)
        engine.ask("team-a", config=FOREIGN)
        async with engine.running():
            pass
        await asyncio.sleep(2400)
        await run_for(engine, steps)
        assert engine.password("team-a") in engine.issuer.minted
        async with engine.running():
            await asyncio.sleep(1)
            assert engine.password("team-a") == engine.issuer.minted[-1]
            assert engine.expiry("team-a") > clock() + 3000
        assert engine.mints <= 3, steps


async def test_two_controllers_at_once_are_safe(clock: Clock, tmp_path: Path) -> None:
    """An overlap of two replicas: what fences is the resource version, so both may mint and one writes."""
    engine = Engine(clock, tmp_path)
    for number in range(10):
        engine.ask(f"team-{number}", number, config=FOREIGN)
    other = asyncio.create_task(engine.start().run(asyncio.Event()))
    async with engine.running(alone=False):
        await asyncio.sleep(2 * 3600)
        for number in range(10):
            assert engine.expiry(f"team-{number}") > clock()
            assert engine.api.config(f"team-{number}", NAME)["auths"]["quay.io"] == {"auth": "YTpi"}
        assert not [reason for number in range(10) for reason in engine.told(f"team-{number}")]
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    assert engine.mints <= 2 * 10 * 5
