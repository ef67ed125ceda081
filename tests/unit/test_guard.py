"""It does not run unguarded unless it is told to, and says what it finds: at the start and from then on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controller.kube.admission import OWN_WRITES, POLICIES, USE_IDENTITY
from controller.kube.errors import StartError
from controller.kube.guard import Guard
from tests.unit.engine import Engine
from tests.unit.policies import install, path, policy_spec
from tests.unit.virtual_time import Clock

BINDING = path("ValidatingAdmissionPolicyBinding", USE_IDENTITY)
LOST = "admission policies don't guard this cluster"
BACK = "admission policies guard this cluster again"
LOOK = 61
"""Seconds until it has looked again."""
CREATES = "kubectl apply -k manifests/ creates it"


@pytest.fixture
async def engine(clock: Clock, tmp_path: Path) -> Engine:
    engine = Engine(clock, tmp_path)
    engine.start()
    return engine


def guard(engine: Engine, *, required: bool) -> Guard:
    return Guard(engine.api.client(), required=required, report=engine.metrics.policy_installed, log=engine.logger())


async def start(engine: Engine, *, required: bool) -> None:
    await guard(engine, required=required).start(engine.stopping)


@asynccontextmanager
async def looking(engine: Engine, *, required: bool) -> AsyncIterator[None]:
    """After the first look, while it goes on."""
    watchful = guard(engine, required=required)
    await watchful.start(engine.stopping)
    task = asyncio.create_task(watchful.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def installed(engine: Engine) -> list[float]:
    """The metric of each policy."""
    return [engine.metric("policy_installed", policy=policy) for policy in POLICIES]


# --- at the start ---


async def test_with_every_policy_in_place_it_starts_and_says_so(engine: Engine) -> None:
    install(engine.api, *POLICIES)
    await start(engine, required=True)
    assert installed(engine) == [1, 1, 1]
    assert engine.log == []


@pytest.mark.parametrize("missing", POLICIES)
async def test_where_policies_are_required_a_missing_one_is_named_and_nothing_starts(
    engine: Engine, missing: str
) -> None:
    """TH24."""
    install(engine.api, *(policy for policy in POLICIES if policy != missing))
    with pytest.raises(StartError) as caught:
        await start(engine, required=True)
    assert str(caught.value) == (
        f"the admission policies are required (requirePolicies): {missing}: the policy is missing; {CREATES}"
    )
    assert engine.metric("policy_installed", policy=missing) == 0


async def test_a_policy_that_means_another_user_does_not_count(engine: Engine) -> None:
    install(engine.api, *POLICIES, user="system:serviceaccount:elsewhere:controller")
    with pytest.raises(StartError, match=OWN_WRITES) as caught:
        await start(engine, required=True)
    assert USE_IDENTITY not in str(caught.value)


async def test_where_policies_are_not_required_missing_ones_are_a_warning(engine: Engine) -> None:
    await start(engine, required=False)
    (entry,) = engine.log
    assert entry == {
        "at": engine.clock(),
        "event": LOST,
        "level": "warning",
        "policies": sorted(POLICIES),
        "problem": f"the policy is missing; {CREATES}",
    }
    assert installed(engine) == [0, 0, 0]


async def test_an_api_server_that_is_down_at_the_start_is_waited_for(engine: Engine) -> None:
    engine.api.fail(None, None, times=30)
    install(engine.api, *POLICIES)
    before = engine.clock()
    await start(engine, required=True)
    assert 30 <= engine.clock() - before <= 120


@pytest.mark.parametrize(("asked", "waited"), [(120, 120), (3000, 300)])
async def test_an_api_server_that_asks_for_time_at_the_start_gets_it(engine: Engine, asked: int, waited: int) -> None:
    install(engine.api, *POLICIES)
    engine.api.fail("create", 429, resource="selfsubjectreviews", retry_after=asked)
    before = engine.clock()
    await start(engine, required=True)
    assert engine.clock() - before == pytest.approx(waited)


async def test_a_credential_that_the_api_server_refuses_is_told_as_that(engine: Engine) -> None:
    install(engine.api, *POLICIES)
    told = "the API server doesn't accept our credential: create selfsubjectreviews: 401 Unauthorized"
    engine.api.fail(None, 401, times=2)
    with pytest.raises(StartError, match=told) as caught:
        await start(engine, required=True)
    assert "missing" not in str(caught.value)
    engine.api.fail(None, 401, times=2)
    await start(engine, required=False)
    assert [entry["problem"] for entry in engine.log] == [told]


async def test_policies_that_may_not_be_read_are_told_as_that(engine: Engine) -> None:
    install(engine.api, *POLICIES)
    engine.api.fail("get", 403, times=3)
    with pytest.raises(StartError, match=r"can't be read: get validatingadmissionpolicies: 403") as caught:
        await start(engine, required=True)
    assert "missing" not in str(caught.value)


async def test_who_may_not_ask_for_its_own_name_is_told_that(engine: Engine) -> None:
    engine.api.fail("create", 403, resource="selfsubjectreviews")
    with pytest.raises(StartError, match="can't be looked at: create selfsubjectreviews: 403"):
        await start(engine, required=True)


async def test_told_to_stop_while_it_waits_for_the_api_server_it_ends(engine: Engine) -> None:
    engine.api.fail(None, None, times=10_000)
    task = asyncio.create_task(start(engine, required=True))
    await asyncio.sleep(60)
    assert not task.done()
    engine.stopping.set()
    before = engine.clock()
    await task
    assert engine.clock() - before < 1


async def test_told_to_stop_while_a_request_hangs_it_ends_at_once_and_says_nothing_of_policies(engine: Engine) -> None:
    engine.api.latency_seconds = 3600
    task = asyncio.create_task(start(engine, required=True))
    await asyncio.sleep(5)
    engine.stopping.set()
    before = engine.clock()
    await task
    assert engine.clock() - before < 1
    assert engine.log == []


# --- from then on ---


@pytest.mark.parametrize("required", [True, False])
async def test_a_binding_that_is_deleted_at_run_time_is_told_within_a_minute_and_once(
    engine: Engine, required: bool
) -> None:
    install(engine.api, *POLICIES)
    async with looking(engine, required=required):
        await asyncio.sleep(3600)
        assert (installed(engine), engine.log) == ([1, 1, 1], [])
        binding = engine.api.objects.pop(BINDING)
        await asyncio.sleep(LOOK)
        assert installed(engine) == [0, 1, 1]
        await asyncio.sleep(3600)
        (entry,) = engine.log
        assert (entry["event"], entry["policies"]) == (LOST, [USE_IDENTITY])
        assert entry["problem"] == f"the binding is missing; {CREATES}"
        engine.api.objects[BINDING] = binding
        await asyncio.sleep(LOOK)
        assert installed(engine) == [1, 1, 1]
        assert [(entry["event"], entry["policies"]) for entry in engine.log[1:]] == [(BACK, [USE_IDENTITY])]


async def test_a_match_condition_that_is_added_at_run_time_is_told_within_a_minute(engine: Engine) -> None:
    install(engine.api, *POLICIES)
    async with looking(engine, required=True):
        policy_spec(engine.api, USE_IDENTITY)["matchConditions"].append({"name": "never", "expression": "false"})
        await asyncio.sleep(LOOK)
        assert installed(engine) == [0, 1, 1]
        assert "differs in spec.matchConditions" in engine.log[0]["problem"]


async def test_rights_that_were_taken_away_are_told_once_and_not_every_minute(engine: Engine) -> None:
    install(engine.api, *POLICIES)
    async with looking(engine, required=False):
        engine.api.fail("get", 403, times=10_000)
        await asyncio.sleep(3600)
        assert installed(engine) == [0, 0, 0]
        (entry,) = engine.log
        assert "can't be read" in entry["problem"]


async def test_an_api_server_that_is_away_leaves_what_was_found_last(engine: Engine) -> None:
    install(engine.api, *POLICIES)
    async with looking(engine, required=True):
        engine.api.fail(None, None, times=10_000)
        await asyncio.sleep(600)
        assert (installed(engine), engine.log) == ([1, 1, 1], [])
        engine.api.heal()
        del engine.api.objects[BINDING]
        await asyncio.sleep(120)
        assert installed(engine) == [0, 1, 1]


async def test_a_minutes_look_costs_seven_requests(engine: Engine) -> None:
    install(engine.api, *POLICIES)
    async with looking(engine, required=True):
        engine.api.requests.clear()
        await asyncio.sleep(10 * 60 + 1)
        assert len(engine.api.requests) == 7 * 10
