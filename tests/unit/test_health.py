"""A dead watch turns the probes red; an API server that is down kills no Pod (W8, O2, kopf #1276)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.observe.health import Health
from tests.unit.engine import Engine
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock


@dataclass
class Watched:
    """A reflector as health sees it."""

    last_progress: float
    last_attempt: float
    listed: bool = True
    refusal: str | None = None


@pytest.fixture
def watched(clock: Clock) -> list[Watched]:
    return [Watched(clock(), clock()), Watched(clock(), clock())]


def health_of(watched: list[Watched], clock: Clock, *, unproven: str | None = None) -> Health:
    return Health(watched, unproven=lambda: unproven, now=clock)


@pytest.mark.parametrize(("idle_seconds", "alive"), [(0, True), (90, True), (91, False)])
def test_a_watch_that_is_dead_for_90_seconds_turns_liveness_red(
    clock: Clock, watched: list[Watched], idle_seconds: float, alive: bool
) -> None:
    watched[1].last_attempt -= idle_seconds
    assert (health_of(watched, clock).live() is None) is alive


@pytest.mark.parametrize(("age_seconds", "ready"), [(0, True), (180, True), (181, False)])
def test_a_watch_that_hears_nothing_for_three_minutes_is_not_ready(
    clock: Clock, watched: list[Watched], age_seconds: float, ready: bool
) -> None:
    watched[0].last_progress -= age_seconds
    health = health_of(watched, clock)
    assert (health.ready() is None) is ready
    assert health.watch_age_seconds() == age_seconds
    assert health.live() is None


def test_before_the_first_list_it_is_not_ready(clock: Clock, watched: list[Watched]) -> None:
    watched[1].listed = False
    health = health_of(watched, clock)
    assert health.ready() == "the first list of Secrets is not done"
    assert health.live() is None


@pytest.mark.parametrize(("refused", "ready"), [(0, True), (1, True), (2, False)])
def test_it_is_unready_while_every_watch_is_refused_and_says_what_is_not_allowed(
    clock: Clock, watched: list[Watched], refused: int, ready: bool
) -> None:
    for each in watched[:refused]:
        each.refusal = "list secrets: 403 Forbidden"
    health = health_of(watched, clock)
    assert health.ready() == (None if ready else "the API server refuses every watch: list secrets: 403 Forbidden")
    assert health.refused() == refused
    assert health.live() is None


def test_before_each_proof_was_read_once_it_is_not_ready(clock: Clock, watched: list[Watched]) -> None:
    health = health_of(watched, clock, unproven="provider chainguard: ProofMissing")
    assert health.ready() == "provider chainguard: ProofMissing"
    assert health.live() is None


def test_a_clock_that_was_set_back_makes_no_age_negative(clock: Clock, watched: list[Watched]) -> None:
    health = health_of(watched, clock)
    clock.step(-HOUR)
    assert health.watch_age_seconds() == 0
    assert (health.ready(), health.live()) == (None, None)


async def test_an_api_server_that_is_down_for_an_hour_leaves_it_alive_and_unready(clock: Clock, tmp_path: Path) -> None:
    engine = Engine(clock, tmp_path)
    engine.ask("team-a")
    async with engine.running() as controller:
        engine.api.fail(None, None, times=10_000)
        engine.api.break_off_watches()
        for _ in range(60):
            await asyncio.sleep(60)
            assert controller.health.live() is None
        assert controller.health.ready() is not None
        assert engine.metric("watch_age_seconds") > 180
        engine.api.heal()
        await asyncio.sleep(60)
        assert controller.health.ready() is None
        assert engine.expiry("team-a") > clock()


async def test_a_silent_watch_is_left_before_the_probes_turn_red(clock: Clock, tmp_path: Path) -> None:
    """F5: a black hole, once the server is known to send bookmarks."""
    engine = Engine(clock, tmp_path)
    async with engine.running() as controller:
        await asyncio.sleep(130)
        engine.api.mute_watches()
        for _ in range(30):
            await asyncio.sleep(10)
            assert controller.health.ready() is None
            assert controller.health.live() is None
        engine.ask("team-a")
        await asyncio.sleep(1)
        assert engine.password("team-a")


async def test_a_watch_that_is_open_again_is_ready_before_it_brings_anything(clock: Clock, tmp_path: Path) -> None:
    """The first bookmark comes a minute later."""
    engine = Engine(clock, tmp_path)
    async with engine.running() as controller:
        engine.api.fail("watch", None, times=10_000)
        engine.api.break_off_watches()
        await asyncio.sleep(200)
        assert controller.health.ready() is not None
        engine.api.heal()
        await asyncio.sleep(31)
        assert controller.health.ready() is None
