"""What the graph is built from, and that it does not run unguarded unless it is told to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from controller.config import Config, load
from controller.guard import StartError, check_policies
from controller.kube.admission import OWN_WRITES, POLICIES, USE_IDENTITY
from tests.unit.engine import NAME, Engine, asking, identity
from tests.unit.fake_api import FakeApi
from tests.unit.virtual_time import Clock

_GROUP = "/apis/admissionregistration.k8s.io/v1"


@pytest.fixture
async def engine(clock: Clock, tmp_path: Path) -> Engine:
    engine = Engine(clock, tmp_path)
    engine.start()
    return engine


def install(api: FakeApi, *policies: str, user: str | None = None) -> None:
    """As manifests/ does."""
    for policy in policies:
        condition = {"name": "c", "expression": f"request.userInfo.username == '{user or api.user}'"}
        action = "Warn" if policy.endswith("other-name") else "Deny"
        spec = {
            "matchConstraints": {"resourceRules": [{"resources": ["secrets"], "operations": ["UPDATE"]}]},
            "matchConditions": [condition],
            "validations": [{"expression": "object.type == 'a'"}],
        }
        api.objects[f"{_GROUP}/validatingadmissionpolicies/{policy}"] = {"spec": spec}
        api.objects[f"{_GROUP}/validatingadmissionpolicybindings/{policy}"] = {
            "spec": {"policyName": policy, "validationActions": [action]}
        }


async def check(engine: Engine, *, required: bool) -> None:
    await check_policies(
        engine.api.client(),
        required=required,
        stopping=engine.stopping,
        telemetry=engine.telemetry,
        log=engine.logger(),
    )


async def test_with_every_policy_in_place_it_starts_and_says_so(engine: Engine) -> None:
    install(engine.api, *POLICIES)
    await check(engine, required=True)
    assert [engine.metric("policy_installed", policy=policy) for policy in POLICIES] == [1, 1, 1]
    assert engine.log == []


@pytest.mark.parametrize("missing", POLICIES)
async def test_where_policies_are_required_a_missing_one_is_named_and_nothing_starts(
    engine: Engine, missing: str
) -> None:
    """TH24."""
    install(engine.api, *(policy for policy in POLICIES if policy != missing))
    with pytest.raises(StartError) as caught:
        await check(engine, required=True)
    assert [policy for policy in POLICIES if policy in str(caught.value)] == [missing]
    assert engine.metric("policy_installed", policy=missing) == 0


async def test_a_policy_that_means_another_user_is_missing(engine: Engine) -> None:
    install(engine.api, *POLICIES, user="system:serviceaccount:elsewhere:controller")
    with pytest.raises(StartError, match=OWN_WRITES) as caught:
        await check(engine, required=True)
    assert USE_IDENTITY not in str(caught.value)


async def test_where_policies_are_not_required_missing_ones_are_a_warning(engine: Engine) -> None:
    await check(engine, required=False)
    assert [(entry["level"], entry["policies"]) for entry in engine.log] == [("warning", sorted(POLICIES))]


async def test_an_api_server_that_is_down_at_the_start_is_waited_for(engine: Engine) -> None:
    engine.api.fail(None, None, times=30)
    install(engine.api, *POLICIES)
    before = engine.clock()
    await check(engine, required=True)
    assert 30 <= engine.clock() - before <= 120


async def test_policies_that_may_not_be_read_are_told_or_refused(engine: Engine) -> None:
    install(engine.api, *POLICIES)
    engine.api.fail("create", 403, resource="selfsubjectreviews", times=2)
    with pytest.raises(StartError, match="can't be read"):
        await check(engine, required=True)
    await check(engine, required=False)
    assert engine.log[0]["event"] == "the admission policies can't be read"


async def test_told_to_stop_while_it_waits_for_the_api_server_it_ends(engine: Engine) -> None:
    engine.api.fail(None, None, times=10_000)
    task = asyncio.create_task(check(engine, required=True))
    await asyncio.sleep(60)
    assert not task.done()
    engine.stopping.set()
    before = engine.clock()
    await task
    assert engine.clock() - before < 1


async def test_told_to_stop_while_a_request_hangs_it_ends_at_once_and_says_nothing_of_policies(engine: Engine) -> None:
    engine.api.latency_seconds = 3600
    task = asyncio.create_task(check(engine, required=True))
    await asyncio.sleep(5)
    engine.stopping.set()
    before = engine.clock()
    await task
    assert engine.clock() - before < 1
    assert engine.log == []


@pytest.mark.parametrize(
    ("settings", "watched"),
    [
        ({}, {("/api/v1/secrets", "metadata.name=pull-secret")}),
        (
            {"secret_names": ("one", "two")},
            {("/api/v1/secrets", "metadata.name=one"), ("/api/v1/secrets", "metadata.name=two")},
        ),
        (
            {"scope": "namespaces", "namespaces": ("x",)},
            {("/api/v1/namespaces/x/secrets", "type=kubernetes.io/dockerconfigjson")},
        ),
        ({"scope": "cluster"}, {("/api/v1/secrets", "type=kubernetes.io/dockerconfigjson")}),
    ],
)
async def test_only_what_the_scope_names_is_watched(
    engine: Engine, settings: dict[str, Any], watched: set[tuple[str, str]]
) -> None:
    """W10, TH4."""
    engine.config = Config(providers=engine.config.providers, **settings)
    async with engine.running() as controller:
        asked = {(request.path, request.query["fieldSelector"]) for request in engine.api.requests}
        assert asked == watched
        assert controller.health.ready() is None
        assert controller.health.live() is None


async def test_it_is_ready_once_every_list_is_read_to_its_end(engine: Engine) -> None:
    engine.config = Config(providers=engine.config.providers, secret_names=("one", "two"))
    engine.api.fail("list", 503, times=1)
    async with engine.running() as controller:
        assert controller.health.ready() == "the first list is not done"
        assert controller.health.live() is None
        await asyncio.sleep(5)
        assert controller.health.ready() is None


async def test_a_refused_list_is_ready_and_served_as_soon_as_it_is_allowed(engine: Engine) -> None:
    """F17: two names, one of which we may not read."""
    engine.ask("team-a")
    engine.api.fail("list", 403, times=3)
    async with engine.running() as controller:
        assert controller.health.ready() is None
        await asyncio.sleep(30)
        assert engine.password("team-a")


async def test_one_refused_watch_among_others_turns_nothing_unready_and_is_a_metric(engine: Engine) -> None:
    """F17: for good, not only at the start."""
    engine.api.fail("list", 403, times=10_000)
    async with engine.running() as controller:
        await asyncio.sleep(1000)
        assert controller.health.ready() is None
        assert engine.metric("watch_refused") == 1


async def test_what_has_not_begun_to_watch_is_not_taken_for_dead(engine: Engine) -> None:
    """While it waits for an API server that is down at the start."""
    async with engine.running() as controller:
        reflector = controller._reflectors[0]
    waiting = type(reflector)(
        client=engine.api.client(),
        selector=reflector._selector,
        sink=reflector._sink,
        now=engine.clock,
        random=lambda: 0.5,
        on_relist=lambda _: None,
        log=reflector._log,
    )
    await asyncio.sleep(1000)
    assert waiting.last_attempt == engine.clock()


async def test_nothing_is_minted_before_the_list_is_read_to_its_end(engine: Engine) -> None:
    """W3, over three pages of which the second fails once."""
    for number in range(1100):
        ours = asking(identity=identity(1)) if number in (0, 1099) else {}
        engine.api.put_secret(f"team-{number:04}", NAME, annotations=ours, config={})
    engine.api.latency_seconds = 1.0
    async with engine.running():
        await asyncio.sleep(2.5)
        assert len(engine.api.requests_of("list")) == 3
        assert engine.mints == 0
        await asyncio.sleep(3)
        assert engine.mints == 1
        assert engine.password("team-0000")
        assert engine.password("team-1099")


async def test_an_empty_configuration_serves_chainguard(engine: Engine, clock: Clock) -> None:
    """design.md 6: every field has a default."""
    config = load(None)
    assert set(config.providers) == {"chainguard"}
    assert (config.scope, config.secret_names) == ("name", (NAME,))
