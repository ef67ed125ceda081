"""One merge patch per write, conditional on the version that was decided on; a refusal is remembered."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.core.errors import Problem
from controller.core.model import Key, View
from controller.core.projection import ObservedSecret, project
from controller.engine.writer import NotWritten, Outdated, Writer
from tests.unit.engine import NAME, PREFIX, Engine, asking, identity
from tests.unit.virtual_time import Clock

CONTENT = b'{"auths":{}}'


@pytest.fixture
async def engine(clock: Clock, tmp_path: Path) -> Engine:
    engine = Engine(clock, tmp_path)
    engine.start()
    engine.ask("team-a")
    return engine


@pytest.fixture
def observed() -> list[ObservedSecret]:
    return []


@pytest.fixture
def rolled_back() -> list[ObservedSecret]:
    return []


@pytest.fixture
def woken() -> list[Key]:
    return []


@pytest.fixture
async def writer(
    engine: Engine, observed: list[ObservedSecret], rolled_back: list[ObservedSecret], woken: list[Key]
) -> Writer:
    assert engine.controller is not None
    return Writer(
        client=engine.api.client(),
        observe=observed.append,
        rolled_back=rolled_back.append,
        wake=woken.append,
        policy=engine.controller._policy,
        now=engine.clock,
        log=engine.logger(),
    )


def view(engine: Engine, namespace: str = "team-a") -> View:
    secret = project(json.dumps(engine.api.secret(namespace, NAME)).encode()).item
    assert secret is not None
    return next(secret.views())


async def test_a_fill_is_one_patch_of_our_annotations_and_the_one_data_key(
    engine: Engine, writer: Writer, observed: list[ObservedSecret]
) -> None:
    """K1, K3, TH6."""
    before = view(engine)
    await writer.fill(before, {PREFIX + "issued-for": "x"}, CONTENT)
    (request,) = engine.api.requests
    assert request.json == {
        "metadata": {"resourceVersion": before.secret.resource_version, "annotations": {PREFIX + "issued-for": "x"}},
        "data": {".dockerconfigjson": base64.b64encode(CONTENT).decode()},
    }
    assert request.query == {"fieldManager": "pull-secret-updater"}
    assert "PartialObjectMetadata" in request.headers["Accept"]
    assert [each.item for each in observed] == [project(json.dumps(engine.api.secret("team-a", NAME)).encode()).item]
    assert observed[0].assumed


async def test_after_a_conflict_what_is_there_now_is_known(
    engine: Engine, writer: Writer, observed: list[ObservedSecret]
) -> None:
    before = view(engine)
    engine.annotate("team-a", identity=identity(2))
    with pytest.raises(Outdated):
        await writer.fill(before, {}, CONTENT)
    assert [request.verb for request in engine.api.requests] == ["patch", "get"]
    assert observed[0].item is not None
    assert observed[0].item.claims[0].identity == identity(2)
    assert writer.held_until(before) is None


@pytest.mark.parametrize("how", ["fill", "read"])
async def test_a_read_of_an_older_version_is_a_rollback(
    engine: Engine, writer: Writer, observed: list[ObservedSecret], rolled_back: list[ObservedSecret], how: str
) -> None:
    """A read shows the newest version there is, so the newer one that was known is lost."""
    backup = engine.api.backup()
    engine.annotate("team-a", identity=identity(2))
    before = view(engine)
    engine.api.restore(backup)
    with pytest.raises(Outdated):
        await (writer.fill(before, {}, CONTENT) if how == "fill" else writer.read(before))
    assert not observed
    [observation] = rolled_back
    assert observation.item == view(engine).secret


async def test_a_probe_wakes_one_and_the_one_tried_longest_ago(
    engine: Engine, writer: Writer, woken: list[Key]
) -> None:
    engine.api.fail("patch", 403, times=3)
    for team in ("team-a", "team-b", "team-a"):
        engine.ask(team)
        with pytest.raises(NotWritten):
            await writer.fill(view(engine, team), {}, CONTENT)
        await asyncio.sleep(1)
    for expected in (["team-b"], ["team-b", "team-a"], ["team-b", "team-a"]):
        writer.probe()
        assert [key.namespace for key in woken] == expected
    assert writer.held_until(view(engine, "team-a")) is None


@pytest.mark.parametrize(
    ("status", "retry_after", "wakes"),
    [(None, None, True), (500, None, True), (401, None, True), (403, None, True), (429, 17, False), (422, None, False)],
)
async def test_only_who_waits_for_the_api_server_is_woken_when_it_is_heard_again(
    engine: Engine, writer: Writer, woken: list[Key], *, status: int | None, retry_after: float | None, wakes: bool
) -> None:
    engine.api.fail("patch", status, times=2, retry_after=retry_after)
    with pytest.raises(NotWritten):
        await writer.fill(view(engine), {}, CONTENT)
    writer.probe()
    writer.recovered()
    assert [key.namespace for key in woken] == ["team-a"] * wakes


async def test_claims_are_woken_no_more_than_once_in_five_seconds(
    engine: Engine, writer: Writer, woken: list[Key]
) -> None:
    engine.api.fail("patch", 403, times=2)
    for expected in (1, 1):
        with pytest.raises(NotWritten):
            await writer.fill(view(engine), {}, CONTENT)
        writer.recovered()
        assert len(woken) == expected
        await asyncio.sleep(4.9)
    await asyncio.sleep(0.2)
    writer.recovered()
    assert len(woken) == 2


async def test_a_clock_that_is_set_back_holds_no_recovery_up(engine: Engine, writer: Writer, woken: list[Key]) -> None:
    writer.recovered()
    engine.clock.step(-3600)
    engine.api.fail("patch", 403)
    with pytest.raises(NotWritten):
        await writer.fill(view(engine), {}, CONTENT)
    writer.recovered()
    assert len(woken) == 1


async def test_a_read_of_another_version_than_was_decided_on_is_a_change(
    engine: Engine, writer: Writer, observed: list[ObservedSecret]
) -> None:
    before = view(engine)
    assert await writer.read(before) == b"{}"
    engine.set_config("team-a", {"auths": {}})
    with pytest.raises(Outdated):
        await writer.read(before)
    assert len(observed) == 1


@pytest.mark.parametrize(
    ("change", "held"),
    [
        (lambda engine: engine.api.merge_patch("team-a", NAME, {"metadata": {"labels": {"a": "b"}}}), True),
        (lambda engine: engine.set_config("team-a", {"auths": {}}), True),
        (lambda engine: engine.annotate("team-a", identity=identity(2)), False),
        (lambda engine: engine.annotate("team-a", refresh="1"), False),
        (lambda engine: engine.annotate("team-a", registries="cgr.dev"), False),
        (lambda engine: engine.annotate("team-a", provider="chainguard"), False),
        (lambda engine: (engine.api.delete_secret("team-a", NAME), engine.ask("team-a")), False),
    ],
)
async def test_a_refusal_is_remembered_until_the_inputs_change(
    engine: Engine, writer: Writer, change: Callable[[Engine], object], held: bool
) -> None:
    engine.api.fail("patch", 403)
    with pytest.raises(NotWritten) as caught:
        await writer.fill(view(engine), {}, CONTENT)
    assert caught.value.rejection is not None
    assert caught.value.rejection.problem is Problem.WRITE_REFUSED
    assert caught.value.next_at is not None
    assert writer.held_until(view(engine)) == caught.value.next_at
    change(engine)
    assert (writer.held_until(view(engine)) is not None) is held


async def test_what_was_not_even_tried_is_held_until_any_change(engine: Engine, writer: Writer) -> None:
    refusal = writer.refuse(view(engine), Problem.CONFIG_TOO_LARGE)
    assert writer.held_until(view(engine)) == refusal.next_at
    engine.api.merge_patch("team-a", NAME, {"metadata": {"labels": {"a": "b"}}})
    assert writer.held_until(view(engine)) is None


async def test_refusals_come_in_growing_steps_and_a_success_ends_them(engine: Engine, writer: Writer) -> None:
    engine.api.fail("patch", 403, times=8)
    steps: list[float] = []
    for _ in range(8):
        with pytest.raises(NotWritten) as caught:
            await writer.fill(view(engine), {}, CONTENT)
        assert caught.value.next_at is not None
        steps.append(caught.value.next_at - engine.clock())
        await asyncio.sleep(steps[-1])
        assert writer.held_until(view(engine)) is None
    assert 15 <= steps[0] <= 30
    assert 450 <= steps[-1] <= 900
    await writer.fill(view(engine), {}, CONTENT)
    engine.api.fail("patch", 403)
    with pytest.raises(NotWritten) as caught:
        await writer.fill(view(engine), {}, CONTENT)
    assert caught.value.next_at is not None
    assert caught.value.next_at - engine.clock() <= 30


async def test_a_new_identity_starts_at_the_first_step_however_often_the_last_one_was_refused(
    engine: Engine, writer: Writer
) -> None:
    engine.api.fail("patch", 403, times=9)
    steps: list[float] = []
    for number in range(9):
        if number == 8:
            engine.annotate("team-a", identity=identity(2))
        with pytest.raises(NotWritten) as caught:
            await writer.fill(view(engine), {}, CONTENT)
        assert caught.value.next_at is not None
        steps.append(caught.value.next_at - engine.clock())
        await asyncio.sleep(steps[-1])
    assert steps[-2] > 400
    assert steps[-1] <= 30


@pytest.mark.parametrize("status", [None, 429, 500, 503])
async def test_what_passes_by_itself_is_nobodys_problem_to_be_told(
    engine: Engine, writer: Writer, status: int | None
) -> None:
    engine.api.fail("patch", status)
    with pytest.raises(NotWritten) as caught:
        await writer.fill(view(engine), {}, CONTENT)
    assert caught.value.rejection is None
    assert caught.value.next_at is not None
    assert 0.5 <= caught.value.next_at - engine.clock() <= 1


async def test_not_found_is_tried_again_since_it_need_not_be_a_deletion(engine: Engine, writer: Writer) -> None:
    before = view(engine)
    engine.api.delete_secret("team-a", NAME)
    with pytest.raises(NotWritten) as caught:
        await writer.annotate(before, asking(error="x"))
    assert caught.value.rejection is None
    assert caught.value.next_at is not None


async def test_an_annotation_of_ours_leaves_what_is_known_of_the_content(
    engine: Engine, writer: Writer, observed: list[ObservedSecret]
) -> None:
    before = view(engine)
    await writer.annotate(before, asking(error="x"))
    assert engine.api.requests[0].json.keys() == {"metadata"}
    assert [each.item for each in observed] == [project(json.dumps(engine.api.secret("team-a", NAME)).encode()).item]
    assert observed[0].assumed
