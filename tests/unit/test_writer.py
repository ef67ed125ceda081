"""One merge patch per write, conditional on the version that was decided on; a refusal is remembered."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.core.errors import Problem
from controller.core.model import View
from controller.core.projection import Observed, project
from controller.writer import Changed, NotWritten, Writer
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
def observed() -> list[Observed]:
    return []


@pytest.fixture
async def writer(engine: Engine, observed: list[Observed]) -> Writer:
    assert engine.controller is not None
    return Writer(
        client=engine.api.client(),
        observe=observed.append,
        policy=engine.controller._policy,
        now=engine.clock,
        log=engine.logger(),
    )


def view(engine: Engine) -> View:
    secret = project(json.dumps(engine.api.secret("team-a", NAME)).encode()).secret
    assert secret is not None
    return next(secret.views())


async def test_a_fill_is_one_patch_of_our_annotations_and_the_one_data_key(
    engine: Engine, writer: Writer, observed: list[Observed]
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
    assert observed == [project(json.dumps(engine.api.secret("team-a", NAME)).encode())]


async def test_after_a_conflict_what_is_there_now_is_known(
    engine: Engine, writer: Writer, observed: list[Observed]
) -> None:
    before = view(engine)
    engine.annotate("team-a", identity=identity(2))
    with pytest.raises(Changed):
        await writer.fill(before, {}, CONTENT)
    assert [request.verb for request in engine.api.requests] == ["patch", "get"]
    assert observed[0].secret is not None
    assert observed[0].secret.claims[0].identity == identity(2)
    assert writer.held_until(before) is None


async def test_a_read_of_another_version_than_was_decided_on_is_a_change(
    engine: Engine, writer: Writer, observed: list[Observed]
) -> None:
    before = view(engine)
    assert await writer.read(before) == b"{}"
    engine.set_config("team-a", {"auths": {}})
    with pytest.raises(Changed):
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
    assert caught.value.problem is Problem.WRITE_REFUSED
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


@pytest.mark.parametrize("status", [None, 429, 500, 503])
async def test_what_passes_by_itself_is_nobodys_problem_to_be_told(
    engine: Engine, writer: Writer, status: int | None
) -> None:
    engine.api.fail("patch", status)
    with pytest.raises(NotWritten) as caught:
        await writer.fill(view(engine), {}, CONTENT)
    assert caught.value.problem is None
    assert caught.value.next_at is not None
    assert 0.5 <= caught.value.next_at - engine.clock() <= 1


async def test_not_found_is_tried_again_since_it_need_not_be_a_deletion(engine: Engine, writer: Writer) -> None:
    before = view(engine)
    engine.api.delete_secret("team-a", NAME)
    with pytest.raises(NotWritten) as caught:
        await writer.annotate(before, asking(error="x"))
    assert caught.value.problem is None
    assert caught.value.next_at is not None


async def test_an_annotation_of_ours_leaves_what_is_known_of_the_content(
    engine: Engine, writer: Writer, observed: list[Observed]
) -> None:
    before = view(engine)
    await writer.annotate(before, asking(error="x"))
    assert engine.api.requests[0].json.keys() == {"metadata"}
    assert observed == [project(json.dumps(engine.api.secret("team-a", NAME)).encode())]
