"""Each version of a Secret becomes one deadline per claim, whatever told of it and however often."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from controller.core.model import Key, Ref
from controller.core.projection import ObservedSecret, project
from controller.engine.dispatcher import NO_PROVIDER
from tests.unit.engine import NAME, PREFIX, Engine, asking, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.queues import deadline
from tests.unit.virtual_time import Clock

KEY = Key("team-a", NAME, "")


@pytest.fixture
async def engine(clock: Clock, tmp_path: Path) -> Engine:
    """A controller that is built and not run: nothing but the test tells it anything."""
    engine = Engine(clock, tmp_path, providers=("a", "b"))
    engine.start()
    return engine


def seen(engine: Engine) -> ObservedSecret:
    return project(json.dumps(engine.api.secret("team-a", NAME)).encode())


def deadlines(engine: Engine, key: Key = KEY) -> dict[str, float]:
    assert engine.controller is not None
    found = {name: deadline(queue, key) for name, queue in engine.controller._queues.items()}
    return {name: at for name, at in found.items() if at is not None}


def tell(engine: Engine) -> None:
    assert engine.controller is not None
    engine.controller._dispatcher.upserted(seen(engine))


def put_filled(engine: Engine, *, age_seconds: float) -> None:
    issued_at = int(engine.clock() - age_seconds)
    filled = engine.written(identity(1), issued_at=issued_at, expires_at=issued_at + int(HOUR))
    engine.api.put_secret(
        "team-a", NAME, annotations={**filled.annotations, PREFIX + "provider": "a"}, config=filled.config
    )


async def test_a_valid_claim_has_one_deadline_inside_its_window(engine: Engine) -> None:
    put_filled(engine, age_seconds=60)
    tell(engine)
    (found,) = deadlines(engine).items()
    assert found[0] == "a"
    assert 0.50 * HOUR - 60 <= found[1] - engine.clock() <= 0.65 * HOUR - 60


async def test_versions_that_change_nothing_leave_the_deadline_where_it_is(engine: Engine) -> None:
    """constant_updates_do_not_postpone_a_refresh."""
    put_filled(engine, age_seconds=60)
    tell(engine)
    before = deadlines(engine)
    for number in range(50):
        engine.api.merge_patch("team-a", NAME, {"metadata": {"labels": {"n": str(number)}}})
        tell(engine)
        tell(engine)
    assert deadlines(engine) == before


async def test_an_older_version_changes_nothing(engine: Engine) -> None:
    """W1, W13: a stale server, or an event that our own answer overtook."""
    engine.api.put_secret("team-a", NAME, annotations=asking(identity=identity(1), provider="b"), config={})
    old = seen(engine)
    put_filled(engine, age_seconds=60)
    tell(engine)
    before = deadlines(engine)
    assert engine.controller is not None
    engine.controller._dispatcher.upserted(old)
    engine.controller._dispatcher.deleted(old.ref, old.resource_version)
    assert deadlines(engine) == before


async def test_a_past_deadline_means_now_not_never(engine: Engine) -> None:
    """slurm-operator #240, theatre #52."""
    put_filled(engine, age_seconds=3 * HOUR)
    tell(engine)
    assert deadlines(engine)["a"] < engine.clock()


async def test_an_early_refresh_moves_the_deadline_later(engine: Engine) -> None:
    put_filled(engine, age_seconds=0.4 * HOUR)
    tell(engine)
    before = deadlines(engine)["a"]
    put_filled(engine, age_seconds=0)
    tell(engine)
    assert deadlines(engine)["a"] > before + 0.2 * HOUR


async def test_a_claim_is_in_the_queue_of_its_provider_alone(engine: Engine) -> None:
    for provider, queue in (("a", "a"), ("b", "b"), ("elsewhere", NO_PROVIDER), ("a", "a")):
        engine.api.put_secret("team-a", NAME, annotations=asking(identity=identity(1), provider=provider), config={})
        tell(engine)
        assert list(deadlines(engine)) == [queue]


async def test_a_claim_that_moves_to_another_provider_while_it_is_processed_waits_for_that_to_end(
    engine: Engine,
) -> None:
    """Else two workers have it at once."""
    assert engine.controller is not None
    queues = engine.controller._queues
    engine.api.put_secret("team-a", NAME, annotations=asking(identity=identity(1), provider="a"), config={})
    tell(engine)
    assert (await queues["a"].get()).key == KEY
    engine.annotate("team-a", provider="b")
    tell(engine)
    assert list(deadlines(engine)) == ["a"], "from where the run that is under way hands it over"
    queues["a"].done(KEY, None)
    assert queues["b"].depth() == 0


async def test_what_asks_for_nothing_any_more_has_no_deadline(engine: Engine) -> None:
    both = asking(identity__a=identity(1), identity__b=identity(2))
    for ours, left in ((both, ["a", "b"]), (asking(identity__b=identity(2)), ["b"]), ({}, [])):
        engine.api.put_secret("team-a", NAME, annotations=ours, config={})
        tell(engine)
        held = [claim for claim in ("a", "b") if deadlines(engine, Key("team-a", NAME, claim))]
        assert held == left


async def test_a_paused_secret_has_no_deadline(engine: Engine) -> None:
    put_filled(engine, age_seconds=2 * HOUR)
    tell(engine)
    engine.annotate("team-a", paused="true")
    tell(engine)
    assert deadlines(engine) == {}


async def test_a_list_forgets_what_it_lacks(engine: Engine) -> None:
    put_filled(engine, age_seconds=60)
    tell(engine)
    assert engine.controller is not None
    version = str(engine.api.resource_version + 1)
    engine.controller._dispatcher.replaced([], covers=lambda ref: False, resource_version=version, rolled_back=False)
    assert deadlines(engine), "another reflector's"
    engine.controller._dispatcher.replaced([], covers=lambda ref: True, resource_version=version, rolled_back=False)
    assert deadlines(engine) == {}
    assert engine.controller._dispatcher.view(KEY) is None


async def test_an_answer_of_ours_never_brings_back_what_was_deleted(engine: Engine) -> None:
    put_filled(engine, age_seconds=60)
    tell(engine)
    late = seen(engine)
    assert engine.controller is not None
    engine.controller._dispatcher.deleted(Ref("team-a", NAME), str(int(late.resource_version) + 1))
    engine.controller._dispatcher.replied(late)
    assert deadlines(engine) == {}


async def test_finishing_a_claim_never_drops_a_deadline_set_meanwhile(engine: Engine) -> None:
    """cert-manager #9269, through the whole graph: the Secret is wiped while its refresh is being written."""
    engine.api.put_secret("team-a", NAME, annotations=asking(identity=identity(1), provider="a"), config={})
    engine.api.latency_seconds = 0.5
    async with engine.running():
        await asyncio.sleep(1.7)
        assert engine.password("team-a", "a.test")
        engine.set_config("team-a", {})
        await asyncio.sleep(3)
        assert engine.password("team-a", "a.test")
        engine.check_deadlines()
