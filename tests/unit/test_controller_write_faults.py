"""The API server refuses our writes, or isn't there (F3, F17, F32, F34)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.engine import NAME, Engine, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


@pytest.mark.parametrize("status", [422, 413])
async def test_a_refused_write_costs_one_mint_a_step_at_most_and_its_token_is_used_again(
    engine: Engine, status: int
) -> None:
    """F32."""
    engine.api.fail("patch", status, resource="secrets", times=10_000)
    engine.ask("team-a")
    async with engine.running():
        assert (engine.mints, engine.patches) == (1, 2), "the token, and the error"
        await asyncio.sleep(10)
        assert (engine.mints, engine.patches) == (1, 2)
        assert engine.told("team-a") == ["WriteRefused"]
        for number in range(50):
            engine.api.merge_patch("team-a", NAME, {"metadata": {"labels": {"n": str(number)}}})
            await asyncio.sleep(0.01)
        assert engine.patches == 2, "what isn't an input changes nothing"
        await asyncio.sleep(0.2 * HOUR - 15)
        assert engine.mints == 1, "younger than a fifth of its life, the token is used again"
        assert 2 <= engine.patches <= 8
        await asyncio.sleep(HOUR)
        assert engine.mints <= engine.patches <= 20
        assert engine.told("team-a") == ["WriteRefused"]


async def test_a_write_that_rbac_refuses_is_tried_every_five_seconds_for_half_an_hour(engine: Engine) -> None:
    """F32: with the same token, and told once."""
    engine.api.fail("patch", 403, resource="secrets", times=10_000)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(61)
        assert 12 <= engine.patches <= 14
        assert engine.mints == 1
        await asyncio.sleep(HOUR / 2)
        probed = engine.patches
        assert engine.mints <= 4, "younger than a fifth of its life, the token is used again"
        await asyncio.sleep(HOUR)
        assert engine.patches - probed <= 10
        assert engine.told("team-a") == ["WriteRefused"]


def valid(engine: Engine, teams: Sequence[str]) -> bool:
    return all(engine.expiry(team) > engine.clock() for team in teams)


async def until_valid(engine: Engine, teams: Sequence[str]) -> float:
    """How many seconds it takes."""
    since = engine.clock()
    while not valid(engine, teams):  # noqa: ASYNC110 -- a Secret sets no event
        await asyncio.sleep(0.1)
    return engine.clock() - since


@pytest.mark.parametrize("lifetime", [20, 60])
@pytest.mark.parametrize("number", [1, 50])
async def test_expired_secrets_are_filled_within_seconds_of_the_api_servers_return(
    engine: Engine, lifetime: int, number: int
) -> None:
    """It is killed and is back after a minute: whose write failed is woken by the first that succeeds."""
    engine.issuer.lifetime_seconds = lifetime
    teams = [f"team-{each}" for each in range(number)]
    for each, team in enumerate(teams):
        engine.ask(team, each)
    async with engine.running():
        await asyncio.sleep(90.5)
        engine.api.fail(None, None, times=1_000_000)
        engine.api.break_off_watches()
        await asyncio.sleep(lifetime + 40)
        assert not any(valid(engine, [team]) for team in teams)
        engine.api.heal()
        assert await until_valid(engine, teams) <= 5.1 + number / 20


@pytest.mark.parametrize("number", [1, 50])
async def test_expired_secrets_are_filled_within_seconds_after_rbac_was_gone(engine: Engine, number: int) -> None:
    """For a minute and a half, with tokens of a minute. The watch stays open all the while."""
    engine.issuer.lifetime_seconds = 60
    teams = [f"team-{each}" for each in range(number)]
    for each, team in enumerate(teams):
        engine.ask(team, each)
    async with engine.running():
        await asyncio.sleep(90.5)
        engine.api.fail("patch", 403, times=1_000_000)
        await asyncio.sleep(90)
        assert not any(valid(engine, [team]) for team in teams)
        engine.api.heal()
        assert await until_valid(engine, teams) <= 5.1 + number / 20


async def test_after_an_outage_the_longest_expired_secret_is_written_first(engine: Engine) -> None:
    teams = [f"team-{each}" for each in range(20)]
    engine.issuer.lifetime_seconds = 60
    for each, team in enumerate(teams):
        engine.ask(team, each)
    async with engine.running():
        await asyncio.sleep(90.5)
        engine.api.fail("patch", 403, times=1_000_000)
        await asyncio.sleep(90)
        due = {identity(each): engine.annotation(team, "refresh-at") or "" for each, team in enumerate(teams)}
        before = engine.mints
        engine.api.heal()
        await until_valid(engine, teams)
        # Those that were tried in the last seconds have a token that is young enough.
        _probe, *asked = [due[exchange.identity] for exchange in engine.issuer.requests[before:]]
        assert len(asked) > 15
        assert asked == sorted(asked)


async def test_a_watch_that_is_open_again_wakes_whose_write_failed(engine: Engine) -> None:
    """No probe was due yet."""
    engine.ask("team-a")
    engine.api.fail("patch", 503, resource="secrets", times=4)
    engine.api.fail("watch", 503)
    async with engine.running():
        await asyncio.sleep(1.7)
        opened = engine.api.requests_of("watch")[-1].at
        assert [request.at for request in engine.api.requests_of("patch")][-1] == opened


async def test_who_is_refused_for_its_own_sake_does_not_follow_the_others_successes(engine: Engine) -> None:
    """A policy refuses one Secret with 403, and everybody else is woken and written at once."""
    engine.issuer.lifetime_seconds = 60
    teams = [f"team-{each}" for each in range(50)]
    for each, team in enumerate([*teams, "odd"]):
        engine.ask(team, each)
    engine.api.fail("patch", 403, times=1_000_000, namespace="odd")
    async with engine.running():
        await asyncio.sleep(90.5)
        engine.api.fail("patch", 403, times=1_000_000)
        await asyncio.sleep(90)
        engine.api.heal()
        engine.api.fail("patch", 403, times=1_000_000, namespace="odd")
        healed_at = engine.clock()
        await asyncio.sleep(20)
        assert valid(engine, teams)
        tries = [each for each in engine.api.requests_of("patch") if each.at >= healed_at and each.namespace == "odd"]
        assert 2 <= len(tries) <= 10
        before = engine.patches
        await asyncio.sleep(HOUR)
        odd = [each for each in engine.api.requests_of("patch")[before:] if each.namespace == "odd"]
        assert len(odd) <= 6 * 60 * 6


async def test_a_refused_write_is_tried_at_once_when_the_inputs_change(engine: Engine) -> None:
    engine.api.fail("patch", 403, resource="secrets")
    engine.ask("team-a", 1)
    async with engine.running():
        engine.annotate("team-a", identity=identity(2))
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.minted[-1]


async def test_a_write_that_is_allowed_again_happens_by_itself(engine: Engine) -> None:
    engine.api.fail("patch", 403, resource="secrets", times=3)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(240)
        assert engine.password("team-a") == engine.issuer.minted[0]
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
        assert engine.password("team-a") == engine.issuer.minted[0]
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
        assert engine.password("team-a") == engine.issuer.minted[0]


async def test_a_write_whose_answer_was_lost_is_not_made_twice(engine: Engine) -> None:
    """The API server took it and the connection broke: the watch tells, and the token is in place."""
    engine.ask("team-a")
    engine.lose_answers = 1
    async with engine.running():
        await asyncio.sleep(60)
        assert engine.password("team-a") == engine.issuer.minted[0]
        engine.check_deadlines()
    assert (engine.mints, engine.patches) == (1, 1)


async def test_a_write_that_hangs_is_given_up_and_made_again(engine: Engine) -> None:
    engine.api.fail("patch", 200, resource="secrets", after_seconds=10_000)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(29)
        assert engine.password("team-a") is None
        await asyncio.sleep(3)
        assert engine.password("team-a") == engine.issuer.minted[0]
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


async def test_a_refused_write_is_tried_more_often_as_the_end_of_the_token_comes_near(engine: Engine) -> None:
    """No step is longer than an eighth of what is left."""
    engine.ask("team-a")
    async with engine.running():
        engine.api.fail("patch", 403, resource="secrets", times=10_000)
        await asyncio.sleep(HOUR - 300)
        engine.api.heal()
        await asyncio.sleep(300 / 8 + 1)
        assert engine.expiry("team-a") > engine.clock() + 300


async def test_an_error_that_could_not_be_written_is_written_when_the_api_server_is_back(engine: Engine) -> None:
    engine.api.fail("patch", 503, resource="secrets", times=3)
    engine.ask("team-a", service_account="")
    async with engine.running():
        await asyncio.sleep(60)
        assert (engine.annotation("team-a", "error") or "").startswith("ServiceAccountInvalid: ")
        assert engine.told("team-a") == ["ServiceAccountInvalid"]
    assert engine.patches == 4


async def test_the_policy_that_refused_a_write_is_named_in_the_event_and_where_it_can_be_written_in_the_error(
    engine: Engine,
) -> None:
    message = "secrets \"pull-secret\" is forbidden: ValidatingAdmissionPolicy 'quiet-hours' denied request: not now"
    status = {"kind": "Status", "code": 403, "reason": "Forbidden", "message": message}
    engine.api.fail("patch", 403, resource="secrets", body=json.dumps(status).encode())
    engine.ask("team-a")
    async with engine.running():
        error = engine.annotation("team-a", "error") or ""
        assert error.startswith("WriteRefused: the API server refused the controller's write; ")
        assert error.endswith(": denied by ValidatingAdmissionPolicy quiet-hours")
        await asyncio.sleep(60)
        assert engine.password("team-a")
        assert engine.annotation("team-a", "error") is None
        assert [event["reason"] for event in engine.api.events] == ["WriteRefused", "Recovered"]
